"""The unit that the split sticks to: by header, parameter or field, over every protocol."""

from __future__ import annotations

import struct
from typing import Any

import httpx
import orjson
import pytest
from google.protobuf import struct_pb2
from inference import grpc_predict_v2_pb2 as v2
from inference import grpc_predict_v2_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from gateway.dataplane.assignment import bucket
from service_kit.errors import DomainError
from service_kit.grpc_status import error_from_rpc
from tests.gateway import tables
from tests.gateway.asking import split
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const
from tests.gateway.test_v2 import rpc, tensor

HEADER = "x-routing-key"
PREDICT, INFER = "/v1/endpoints/ab:predict", "/v2/models/ab/infer"
UNITS = [f"u{i}" for i in range(12)]
MATRIX = tensor("features", "FP32", [1, 1, 2, 2], [2, 2])
COLUMNS = [tensor("x0", "FP64", [1, 2]), tensor("x1", "FP64", [1, 2])]
INSTANCES = {"instances": [{"x0": 1, "x1": 1}, {"x0": 2, "x1": 2}]}


def variant_of(unit: str) -> str:
    return "v1" if bucket("s", unit) < 5_000 else "v2"


@pytest.fixture(params=["", "user"])
def ab(suite: Suite, request: pytest.FixtureRequest) -> Suite:
    """Half the traffic to each of two versions; without and with a field to split by."""
    divide(suite, routing_key=request.param)
    return suite


def divide(suite: Suite, **fields: Any) -> None:
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000),
        replicas={
            "v1": suite.replica(const(1)).address,
            "v2": suite.replica(const(2)).address,
        },
        **fields,
    )


def served(answer: httpx.Response) -> list[str]:
    """The variant of each of two rows."""
    assert answer.status_code == 200, answer.text
    head = answer.headers.get("inference-header-content-length")
    body = orjson.loads(answer.content[: int(head)] if head else answer.content)
    if "predictions" in body:
        return [each["variant"] for each in body["predictions"]]
    told = body["parameters"]["variant"].split(",")
    return told if len(told) == 2 else told * 2


def binary(suite: Suite, **more: Any) -> httpx.Response:
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "features",
                    "datatype": "FP32",
                    "shape": [2, 2],
                    "parameters": {"binary_data_size": 16},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    headers = {
        "inference-header-content-length": str(len(head)),
        "content-type": "application/octet-stream",
        **more.pop("headers", {}),
    }
    body = head + struct.pack("<4f", 1, 1, 2, 2)
    return suite.post(INFER, content=body, headers=headers)


def matrix(suite: Suite, **more: Any) -> httpx.Response:
    return suite.post(INFER, {"inputs": [MATRIX]}, **more)


def columns(suite: Suite, **more: Any) -> httpx.Response:
    return suite.post(INFER, {"inputs": COLUMNS}, **more)


def instances(suite: Suite, **more: Any) -> httpx.Response:
    return suite.post(PREDICT, INSTANCES, **more)


@pytest.mark.parametrize("way", [instances, columns, matrix, binary])
def test_a_header_names_the_unit_of_all_rows(ab: Suite, way: Any) -> None:
    for unit in UNITS:
        assert served(way(ab, headers={HEADER: unit})) == [variant_of(unit)] * 2
    ab.settle()
    batches = ab.predictions(2)
    found = {(batch.batch.variant, unit) for batch in batches for unit in batch["unit_id"]}
    assert found == {(variant_of(unit), unit) for unit in UNITS}


@pytest.mark.parametrize("inputs", [[MATRIX], COLUMNS])
def test_a_parameter_of_the_protocol_names_it_too(ab: Suite, inputs: Any) -> None:
    for unit in [*UNITS, 7]:
        answer = ab.post(INFER, {"inputs": inputs, "parameters": {"routing_key": unit}})
        assert served(answer) == [variant_of(str(unit))] * 2


@pytest.mark.parametrize("where", ["first", "second"])
def test_a_tensor_beside_the_matrix_names_the_unit_of_each_row(suite: Suite, where: str) -> None:
    divide(suite, routing_key="user")
    for one, two in zip(UNITS, reversed(UNITS), strict=True):
        keys = tensor("user", "BYTES", [one, two], [2, 1] if where == "second" else [2])
        answer = suite.post(INFER, {"inputs": [MATRIX, keys]})
        assert served(answer) == [variant_of(one), variant_of(two)]
    assert served(suite.post(INFER, {"inputs": [MATRIX, tensor("user", "INT64", [7, 8])]})) == [
        variant_of("7"),
        variant_of("8"),
    ]
    for keys, reason, field in (
        (tensor("user", "BYTES", ["a"]), "WRONG_SHAPE", "inputs[1].shape"),
        (tensor("user", "FP32", [1.5, 2]), "WRONG_TYPE", "inputs[1].data[0]"),
        (tensor("user", "BYTES", [1, 2]), "WRONG_TYPE", "inputs[1].data"),
        (tensor("other", "BYTES", ["a", "b"]), "WRONG_SHAPE", "inputs[0].shape"),
    ):
        problem = suite.post(INFER, {"inputs": [MATRIX, keys]}).json()
        assert (problem["reason"], problem["violations"][0]["field"]) == (reason, field)


def test_header_goes_before_parameter_and_parameter_before_field(suite: Suite) -> None:
    divide(suite, routing_key="user")
    left, right = (next(u for u in UNITS if variant_of(u) == name) for name in ("v1", "v2"))
    body = {"instances": [{"x0": 1, "x1": 1, "user": right}] * 2}
    assert served(suite.post(PREDICT, body)) == ["v2", "v2"]
    assert served(suite.post(PREDICT, body, headers={HEADER: left})) == ["v1", "v1"]
    assert served(suite.post(PREDICT, body, headers={HEADER: ""})) == ["v2", "v2"]
    keyed = [*COLUMNS, tensor("user", "BYTES", [left, left])]
    named = {"inputs": keyed, "parameters": {"routing_key": right}}
    assert served(suite.post(INFER, {"inputs": keyed})) == ["v1", "v1"]
    assert served(suite.post(INFER, named)) == ["v2", "v2"]
    assert served(suite.post(INFER, named, headers={HEADER: left})) == ["v1", "v1"]
    nothing = {"inputs": keyed, "parameters": {"routing_key": ""}}
    assert served(suite.post(INFER, nothing)) == ["v1", "v1"]


def test_without_any_each_request_is_drawn_anew(ab: Suite) -> None:
    body = {"instances": [{"x0": 1, "x1": 1}] * 3}
    big = tensor("features", "FP32", [1.0] * 400, [200, 2])
    for ask in (
        lambda: {each["variant"] for each in ab.post(PREDICT, body).json()["predictions"]},
        lambda: {ab.post(INFER, {"inputs": [big]}).json()["parameters"]["variant"]},
    ):
        seen = [variant for _ in range(100) for variant in ask()]
        assert len(seen) == 100
        assert 20 < seen.count("v1") < 80
    ab.settle()
    for batch in ab.predictions():
        assert "unit_id" not in batch.columns


def test_a_row_without_its_field_is_drawn_anew_and_a_wrong_one_is_refused(suite: Suite) -> None:
    divide(suite, routing_key="user")
    rows = [{"x0": 1, "x1": 1, "user": user} for user in (None, "", "ann", 5)]
    assert suite.post(PREDICT, {"instances": rows}).status_code == 200
    suite.settle()
    units: dict[str, str] = {}
    for batch in suite.predictions():
        units |= dict(zip(batch["prediction_id"], batch["unit_id"], strict=True))
    assert sorted(unit for key, unit in units.items() if unit != key) == ["5", "ann"]
    wrong = {"instances": [{"x0": 1, "x1": 1, "user": 1.5}]}
    problem = suite.post(PREDICT, wrong).json()
    assert problem["reason"] == "WRONG_TYPE"
    assert problem["violations"][0]["field"] == "instances[0].user"


def test_an_endpoint_may_name_its_header(suite: Suite) -> None:
    divide(suite, routing_header="x-tenant", overrides={"boss": "v2", "guest": "v1"})
    for way in (instances, columns, matrix, binary):
        assert served(way(suite, headers={"X-Tenant": "boss"})) == ["v2", "v2"]
        assert served(way(suite, headers={"X-Tenant": "guest", HEADER: "boss"})) == ["v1", "v1"]


@pytest.mark.parametrize(
    ("value", "reason"), [(b"\xff", "INVALID_FORMAT"), (b"x" * 513, "OUT_OF_RANGE")]
)
@pytest.mark.parametrize("way", [instances, columns])
def test_a_header_that_can_be_no_unit(ab: Suite, way: Any, value: bytes, reason: str) -> None:
    problem = way(ab, headers={HEADER.encode(): value}).json()
    assert (problem["status"], problem["reason"]) == (400, reason)
    assert problem["violations"][0]["field"] == HEADER


@pytest.mark.parametrize(
    ("value", "reason"),
    [(1.5, "WRONG_TYPE"), (True, "WRONG_TYPE"), ([], "WRONG_TYPE"), ("x" * 513, "OUT_OF_RANGE")],
)
def test_a_parameter_that_can_be_no_unit(ab: Suite, value: Any, reason: str) -> None:
    problem = ab.post(INFER, {"inputs": COLUMNS, "parameters": {"routing_key": value}}).json()
    assert (problem["status"], problem["reason"]) == (400, reason)
    assert problem["violations"][0]["field"] == "parameters.routing_key"


def test_units_are_not_only_ascii(ab: Suite) -> None:
    for unit in ("Zoë", "駅", "🙂"):
        answer = instances(ab, headers={HEADER.encode(): unit.encode()})
        assert served(answer) == [variant_of(unit)] * 2


def infer_request(**parameters: Any) -> v2.ModelInferRequest:
    request = v2.ModelInferRequest(model_name="ab")
    entry = request.inputs.add(name="features", datatype="FP32", shape=[2, 2])
    entry.contents.fp32_contents.extend([1, 1, 2, 2])
    for name, value in parameters.items():
        setattr(request.parameters["routing_key"], name, value)
    return request


def test_metadata_name_the_unit_over_grpc(ab: Suite) -> None:
    stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub
    predict = serving_pb2.PredictRequest(endpoint="endpoints/ab")
    for _ in range(2):
        predict.instances.add().update({"x0": 1, "x1": 1})
    assert isinstance(predict.instances[0], struct_pb2.Struct)
    for unit in UNITS:
        metadata = ((HEADER, unit),)
        answer = rpc(ab, stub, "ModelInfer", infer_request(), metadata=metadata)
        assert answer.parameters["variant"].string_param == variant_of(unit)
        other = rpc(
            ab, serving_pb2_grpc.PredictionServiceStub, "Predict", predict, metadata=metadata
        )
        assert [each.variant for each in other.predictions] == [variant_of(unit)] * 2


def test_parameters_name_it_over_grpc(ab: Suite) -> None:
    stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub
    for given, unit in ({"string_param": "ann"}, "ann"), ({"int64_param": 7}, "7"):
        answer = rpc(ab, stub, "ModelInfer", infer_request(**given))
        assert answer.parameters["variant"].string_param == variant_of(unit)
    with pytest.raises(Exception) as caught:
        rpc(ab, stub, "ModelInfer", infer_request(bool_param=True))
    error: DomainError = error_from_rpc(caught.value)
    assert (error.reason, error.field) == ("WRONG_TYPE", "parameters.routing_key")
