"""The Open Inference Protocol, and PredictionService, over REST and gRPC."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import grpc
import httpx
import orjson
import pytest
from google.protobuf import struct_pb2
from inference import grpc_predict_v2_pb2 as v2
from inference import grpc_predict_v2_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from service_kit.grpc_status import error_from_rpc
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const, total

INFER = "/v2/models/late/infer"


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> Any:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


GOOD = [
    tensor("carrier", "BYTES", ["UA", "AA"]),
    tensor("origin", "BYTES", ["JFK", "LGA"], [2, 1]),
    tensor("distance", "FP64", [100.5, 200]),
    tensor("hour", "INT64", [7, 8]),
]
SCORES = [10 + 1.5 + 100.5 + 7 + 0, 20 + 2.5 + 200 + 8 + 1]


@pytest.fixture
def late(suite: Suite) -> Suite:
    one, two = suite.replica(total), suite.replica(const(5))
    suite.push(
        tables.route(
            "late",
            tables.variant("v1", 10_000, of=tables.signature()),
            tables.variant("v2", 0, of=tables.signature()),
        ),
        tables.route("empty", tables.variant("v9", 10_000)),
        v1=one.address,
        v2=two.address,
    )
    return suite


def test_tensors_by_name(late: Suite) -> None:
    answer = late.post(INFER, {"id": "r1", "inputs": GOOD})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["outputs"] == [{"name": "late", "datatype": "FP32", "shape": [2], "data": SCORES}]
    assert (body["model_name"], body["model_version"], body["id"]) == ("late", "1", "r1")
    assert body["parameters"]["variant"] == "v1"
    assert body["parameters"]["fallback"] == ""
    late.settle()
    (batch,) = late.predictions()
    assert ",".join(batch["prediction_id"]) == body["parameters"]["prediction_ids"]


def test_an_event_time_may_be_given(late: Suite) -> None:
    when = {"event_time": "2013-06-03T12:00:00Z"}
    answer = late.post(INFER, {"inputs": GOOD, "parameters": when})
    assert answer.status_code == 200, answer.text
    late.settle()
    (batch,) = late.predictions()
    assert batch["event_time"] == [1_370_260_800_000_000] * 2
    answer = late.post(INFER, {"inputs": GOOD, "parameters": {"event_time": "noon"}})
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (400, "INVALID_FORMAT")
    assert problem["violations"][0]["field"] == "parameters.event_time"


def test_a_version_may_be_named(late: Suite) -> None:
    answer = late.post("/v2/models/late/versions/2/infer", {"inputs": GOOD})
    assert answer.json()["outputs"][0]["data"] == [5.0, 5.0]
    answer = late.post("/v2/models/late/versions/3/infer", {"inputs": GOOD})
    assert (answer.status_code, answer.json()["reason"]) == (404, "VERSION_NOT_SERVED")


@pytest.mark.parametrize("nested", [True, False])
def test_the_matrix_as_the_model_sees_it(late: Suite, nested: bool) -> None:
    rows = [[10, 1.5, 100, 7, 0], [20, 2.5, 200, 8, -1]]
    data = rows if nested else [value for row in rows for value in row]
    answer = late.post(INFER, {"inputs": [tensor("features", "FP32", data, [2, 5])]})
    assert answer.json()["outputs"][0]["data"] == [118.5, 229.5]
    assert late.features.asks == []
    late.settle()
    (batch,) = late.predictions()
    assert batch["input.carrier"] == ["UA", None]
    assert batch["input.wind"] == [1.5, 2.5]


def test_outputs_may_be_chosen(late: Suite) -> None:
    assert late.post(INFER, {"inputs": GOOD, "outputs": [{"name": "late"}]}).status_code == 200
    problem = late.post(INFER, {"inputs": GOOD, "outputs": [{"name": "x"}]}).json()
    assert (problem["reason"], problem["violations"][0]["field"]) == (
        "UNKNOWN_OUTPUT",
        "outputs[0].name",
    )


FEATURES = "features"


@pytest.mark.parametrize(
    ("inputs", "status", "reason", "field"),
    [
        ([], 400, "WRONG_COUNT", "inputs"),
        (5, 400, "WRONG_TYPE", "inputs"),
        ([5], 400, "WRONG_TYPE", "inputs[0]"),
        ([tensor("carrier", "BYTES", ["UA"], [2])], 400, "WRONG_SHAPE", "inputs[0].shape"),
        ([tensor("carrier", "BYTES", ["UA"], [-1])], 400, "WRONG_TYPE", "inputs[0].shape"),
        ([tensor("carrier", "BYTES", [5])], 400, "WRONG_TYPE", "inputs[0].data"),
        ([tensor("carrier", "NOPE", ["UA"])], 400, "UNKNOWN_DATATYPE", "inputs[0].datatype"),
        ([*GOOD, GOOD[0]], 400, "DUPLICATE_FIELD", "inputs[4].name"),
        ([GOOD[0], tensor("origin", "BYTES", ["JFK"])], 400, "WRONG_SHAPE", "inputs[1].shape"),
        (GOOD[:2], 400, "FIELD_MISSING", "distance"),
        ([*GOOD[:2], tensor("distance", "FP32", [True, 1])], 400, "WRONG_TYPE", "inputs[2].data"),
        ([*GOOD[:2], tensor("distance", "INT8", [300, 1])], 400, "OUT_OF_RANGE", "inputs[2].data"),
        (
            [*GOOD[:2], tensor("distance", "FP64", [1, 1e39])],
            400,
            "OUT_OF_RANGE",
            "inputs[2].data[1]",
        ),
        ([*GOOD, tensor("x", "FP32", [1, 2])], 400, "UNKNOWN_FIELD", "inputs[4].data[0]"),
        ([tensor(FEATURES, "FP32", [1, 2], [2, 1])], 400, "WRONG_SHAPE", "inputs[0].shape"),
        ([tensor(FEATURES, "INT64", [1] * 5, [1, 5])], 400, "WRONG_SHAPE", "inputs[0].shape"),
        ([tensor(FEATURES, "FP64", [1e39] * 5, [1, 5])], 400, "OUT_OF_RANGE", "inputs[0].data"),
        ([tensor(FEATURES, "FP32", [[1], [1, 2]], [2, 1])], 400, "WRONG_SHAPE", "inputs[0].data"),
        (
            [
                tensor("carrier", "BYTES", ["ZZ"]),
                tensor("origin", "BYTES", ["JFK"]),
                tensor("distance", "FP32", [1]),
            ],
            404,
            "ENTITY_NOT_FOUND",
            "inputs[0].data[0]",
        ),
    ],
)
def test_wrong_tensors(late: Suite, inputs: Any, status: int, reason: str, field: str) -> None:
    answer = late.post(INFER, {"inputs": inputs})
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (status, reason), problem
    assert problem["violations"][0]["field"] == field


def binary(
    late: Suite, inputs: list[tuple[str, str, list[int], bytes]], tail: bytes = b"", **head: Any
) -> httpx.Response:
    document = {
        "inputs": [
            {
                "name": name,
                "datatype": kind,
                "shape": shape,
                "parameters": {"binary_data_size": len(data)},
            }
            for name, kind, shape, data in inputs
        ],
        **head,
    }
    text = orjson.dumps(document)
    headers = {
        "inference-header-content-length": str(len(text)),
        "content-type": "application/octet-stream",
    }
    body = b"".join((text, *(data for *_, data in inputs), tail))
    return late.post(INFER, content=body, headers=headers)


def strings(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


BINARY = [
    ("carrier", "BYTES", [2], strings("UA", "AA")),
    ("origin", "BYTES", [2, 1], strings("JFK", "LGA")),
    ("distance", "FP64", [2], struct.pack("<2d", 100.5, 200)),
    ("hour", "INT8", [2], struct.pack("<2b", 7, 8)),
]


def test_binary_tensors(late: Suite) -> None:
    answer = binary(late, BINARY)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == SCORES
    answer = binary(late, BINARY, parameters={"binary_data_output": True})
    at = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    (output,) = orjson.loads(answer.content[:at])["outputs"]
    assert output == {
        "name": "late",
        "datatype": "FP32",
        "shape": [2],
        "parameters": {"binary_data_size": 8},
    }
    assert list(struct.unpack("<2f", answer.content[at:])) == SCORES
    wanted = [{"name": "late", "parameters": {"binary_data": True}}]
    assert "inference-header-content-length" in binary(late, BINARY, outputs=wanted).headers


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *(("INT8", "b"), ("INT16", "h"), ("INT32", "i"), ("INT64", "q")),
        *(("UINT8", "B"), ("UINT16", "H"), ("UINT32", "I"), ("UINT64", "Q")),
        *(("FP16", "e"), ("FP32", "f"), ("FP64", "d")),
    ],
)
def test_every_number_type_as_bytes(late: Suite, kind: str, form: str) -> None:
    data = struct.pack(f"<2{form}", 7, 8)
    answer = binary(late, [*BINARY[:3], ("hour", kind, [2], data)])
    assert answer.json()["outputs"][0]["data"] == SCORES


def test_short_floats_and_booleans(late: Suite) -> None:
    upper_halves = b"".join(struct.pack("<f", value)[2:] for value in (7, 8))
    answer = binary(late, [*BINARY[:3], ("hour", "BF16", [2], upper_halves)])
    assert answer.json()["outputs"][0]["data"] == SCORES
    answer = binary(late, [*BINARY[:3], ("hour", "BOOL", [2], b"\x01\x00")])
    assert answer.json()["outputs"][0]["data"] == [SCORES[0] - 6, SCORES[1] - 8]
    answer = late.post(INFER, {"inputs": [*GOOD[:3], tensor("hour", "BOOL", [True, False])]})
    assert answer.json()["outputs"][0]["data"] == [SCORES[0] - 6, SCORES[1] - 8]


def test_the_matrix_as_bytes(late: Suite) -> None:
    rows = [10, 1.5, 100, 7, 0, 20, 2.5, 200, 8, -1]
    for kind, form in (("FP32", "f"), ("FP64", "d")):
        answer = binary(late, [("features", kind, [2, 5], struct.pack(f"<10{form}", *rows))])
        assert answer.json()["outputs"][0]["data"] == [118.5, 229.5]


@pytest.mark.parametrize(
    ("tensors", "tail", "reason", "field"),
    [
        ([("features", "FP32", [1, 5], b"123")], b"", "WRONG_SHAPE", None),
        ([("features", "NOPE", [1, 5], b"1234")], b"", "UNKNOWN_DATATYPE", None),
        ([("features", "FP32", [1, 5], bytes(20))], b"1", "WRONG_SHAPE", "body"),
        (
            [("features", "FP32", [1, 5], struct.pack("<5f", 1, 1, 1, 1, float("nan")))],
            b"",
            "NOT_FINITE",
            "inputs[0].data",
        ),
        (
            [("features", "FP64", [1, 5], struct.pack("<5d", 1, 1, 1, 1, 1e39))],
            b"",
            "OUT_OF_RANGE",
            "inputs[0].data",
        ),
        ([("carrier", "BYTES", [1], b"\x05\x00\x00\x00ab")], b"", "WRONG_SHAPE", None),
        ([("carrier", "BYTES", [1], b"\x01\x00\x00\x00\xff")], b"", "WRONG_TYPE", None),
    ],
)
def test_wrong_bytes(
    late: Suite, tensors: Any, tail: bytes, reason: str, field: str | None
) -> None:
    problem = binary(late, tensors, tail).json()
    assert (problem["status"], problem["reason"]) == (400, reason)
    where = field or "inputs[0].parameters.binary_data_size"
    assert problem["violations"][0]["field"] == where


@pytest.mark.parametrize("length", ["x", "-1", "999"])
def test_a_wrong_length_of_the_head(late: Suite, length: str) -> None:
    headers = {"inference-header-content-length": length}
    problem = late.post(INFER, content=b"{}", headers=headers).json()
    assert (problem["status"], problem["reason"]) == (400, "WRONG_LENGTH")
    assert problem["violations"][0]["field"] == "Inference-Header-Content-Length"


def test_health_and_metadata(late: Suite) -> None:
    assert late.get("/v2/health/live", key="").status_code == 200
    assert late.get("/v2/health/ready", key="").status_code == 200
    assert late.get("/v2").json()["name"] == "modelyard"
    assert late.get("/v2/models/late/ready").status_code == 200
    assert late.get("/v2/models/late/versions/2/ready").status_code == 200
    assert late.get("/v2/models/empty/ready").status_code == 503
    assert late.get("/v2/models/nope/ready").status_code == 404
    model = late.get("/v2/models/late").json()
    assert model["versions"] == ["1", "2"]
    assert {each["name"]: each["datatype"] for each in model["inputs"]} == {
        "carrier": "BYTES",
        "origin": "BYTES",
        "distance": "FP64",
        "hour": "FP64",
    }
    assert model["outputs"] == [{"name": "late", "datatype": "FP32", "shape": [-1]}]


def rpc(
    suite: Suite,
    stub_class: Any,
    method: str,
    request: Any,
    key: str | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> Any:
    async def call() -> Any:
        nonlocal metadata
        async with grpc.aio.insecure_channel(suite.grpc_address) as channel:
            token = suite.key if key is None else key
            if token:
                metadata = (("authorization", f"Bearer {token}"), *metadata)
            return await getattr(stub_class(channel), method)(request, metadata=metadata, timeout=5)

    return suite.run(call())


V2 = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub


def grpc_request(*, raw: bool) -> v2.ModelInferRequest:
    request = v2.ModelInferRequest(model_name="late", id="r1")
    values = {
        "carrier": ("BYTES", [b"UA", b"AA"]),
        "origin": ("BYTES", [b"JFK", b"LGA"]),
        "distance": ("FP64", [100.5, 200.0]),
        "hour": ("INT32", [7, 8]),
    }
    fields = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT32": "int_contents"}
    for name, (datatype, data) in values.items():
        entry = request.inputs.add(name=name, datatype=datatype, shape=[2])
        if not raw:
            getattr(entry.contents, fields[datatype]).extend(data)
        elif datatype == "BYTES":
            packed = b"".join(struct.pack("<I", len(each)) + each for each in data)
            request.raw_input_contents.append(packed)
        else:
            code = "d" if datatype == "FP64" else "i"
            request.raw_input_contents.append(array(code, data).tobytes())
    return request


@pytest.mark.parametrize("raw", [True, False])
def test_infer_over_grpc(late: Suite, raw: bool) -> None:
    answer = rpc(late, V2, "ModelInfer", grpc_request(raw=raw))
    assert (answer.model_name, answer.model_version, answer.id) == ("late", "1", "r1")
    assert (answer.outputs[0].name, list(answer.outputs[0].shape)) == ("late", [2])
    if raw:
        assert array("f", answer.raw_output_contents[0]).tolist() == SCORES
    else:
        assert list(answer.outputs[0].contents.fp32_contents) == SCORES
    assert answer.parameters["variant"].string_param == "v1"


def test_states_over_grpc(late: Suite) -> None:
    assert rpc(late, V2, "ServerLive", v2.ServerLiveRequest(), key="").live
    assert rpc(late, V2, "ServerReady", v2.ServerReadyRequest(), key="").ready
    assert rpc(late, V2, "ServerMetadata", v2.ServerMetadataRequest(), key="").name == "modelyard"
    assert rpc(late, V2, "ModelReady", v2.ModelReadyRequest(name="late")).ready
    assert not rpc(late, V2, "ModelReady", v2.ModelReadyRequest(name="empty")).ready
    model = rpc(late, V2, "ModelMetadata", v2.ModelMetadataRequest(name="late", version="2"))
    assert [each.name for each in model.outputs] == ["late"]


def failure(suite: Suite, stub: Any, method: str, request: Any, key: str | None = None) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        rpc(suite, stub, method, request, key)
    return caught.value.code(), error_from_rpc(caught.value)


def test_refusals_over_grpc(late: Suite) -> None:
    good = grpc_request(raw=False)
    code, error = failure(late, V2, "ModelInfer", good, key="")
    assert (code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "NO_API_KEY")
    text = late.gateway.keys.create(["registry:read"])
    code, error = failure(late, V2, "ModelInfer", good, key=text)
    assert (code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    good.model_name = "nope"
    code, error = failure(late, V2, "ModelInfer", good)
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x05\x00\x00\x00ab", "WRONG_SHAPE"),
        (b"\x05", "WRONG_SHAPE"),
        (b"\x01\x00\x00\x00\xff" * 2, "WRONG_TYPE"),
        (b"", "WRONG_SHAPE"),
    ],
)
def test_wrong_raw_bytes(late: Suite, data: bytes, reason: str) -> None:
    request = grpc_request(raw=True)
    request.raw_input_contents[0] = data
    _, error = failure(late, V2, "ModelInfer", request)
    assert error.reason == reason


def test_prediction_service_over_grpc(late: Suite) -> None:
    instance = struct_pb2.Struct()
    instance.update({"carrier": "UA", "origin": "JFK", "distance": 100, "hour": 7})
    request = serving_pb2.PredictRequest(
        endpoint="endpoints/late", instances=[instance], return_features=True
    )
    request.event_times.add(seconds=1_400_000_000)
    answer = rpc(late, serving_pb2_grpc.PredictionServiceStub, "Predict", request)
    (prediction,) = answer.predictions
    assert prediction.outputs == {"late": 118.5}
    assert prediction.features["mean_delay"] == 10
    assert list(late.features.asks[0].as_of_us) == [1_400_000_000_000_000]
    instance.update({"distance": float("nan")})
    request.instances[0].CopyFrom(instance)
    _, error = failure(late, serving_pb2_grpc.PredictionServiceStub, "Predict", request)
    assert (error.reason, error.field) == ("NOT_FINITE", "instances[0].distance")
