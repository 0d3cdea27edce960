"""Requests say what the model's rows are, and answers are read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from inference import grpc_predict_v2_pb2 as v2

from bench.serving import grpc_requests, modelyard, requests
from bench.serving.model import FEATURES, Matrix

MATRICES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(-1e6, 1e6, width=32),
)
ROWS = np.arange(64 * FEATURES, dtype=np.float32).reshape(64, FEATURES) / 7


@given(MATRICES)
def test_json_keeps_every_bit(matrix: Matrix) -> None:
    tensor = json.loads(requests.v2_json(matrix))["inputs"][0]
    again = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    assert np.array_equal(again, matrix)
    assert np.array_equal(json.loads(requests.matrix_json(matrix))["inputs"], matrix)


@given(MATRICES)
def test_binary_tensors_follow_their_head(matrix: Matrix) -> None:
    body, length = requests.v2_binary(matrix)
    tensor = json.loads(body[:length])["inputs"][0]
    assert tensor["parameters"]["binary_data_size"] == len(body) - length
    again = np.frombuffer(body[length:], "<f4").reshape(tensor["shape"])
    assert np.array_equal(again, matrix)


@given(MATRICES, st.booleans())
def test_grpc_requests_hold_the_rows(matrix: Matrix, raw: bool) -> None:
    frame = requests.grpc_frame(grpc_requests.infer_request(matrix, raw=raw))
    request = v2.ModelInferRequest.FromString(requests.grpc_message(frame))
    tensor = request.inputs[0]
    values = (
        np.frombuffer(request.raw_input_contents[0], "<f4")
        if raw
        else np.array(tensor.contents.fp32_contents, np.float32)
    )
    assert np.array_equal(values.reshape(tensor.shape), matrix)


def test_a_frame_that_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="frame"):
        requests.grpc_message(requests.grpc_frame(b"answer")[:-1])


def test_bodies_share_the_rows_out() -> None:
    made = requests.exchange("/p", ROWS, 24, requests.v2_json, requests.parse_v2)
    assert [len(ROWS[part]) for part in made.rows] == [24, 24, 16]
    assert len(made.bodies) == 3


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_answers_are_read(datatype: str) -> None:
    values = np.array([0.25, 0.5], {"FP32": "<f4", "FP64": "<f8"}[datatype])
    output = {"datatype": datatype, "shape": [2, 1], "data": [[0.25], [0.5]]}
    plain = json.dumps({"outputs": [output]}).encode()
    assert requests.parse_v2({}, plain) == [0.25, 0.5]
    size = {"binary_data_size": values.nbytes}
    head = json.dumps({"outputs": [{"datatype": datatype, "parameters": size}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    assert requests.parse_v2(headers, head + values.tobytes()) == [0.25, 0.5]
    assert requests.parse_mlflow({}, b'{"predictions": [0.25, 0.5]}') == [0.25, 0.5]


def test_looked_up_inputs_are_not_sent() -> None:
    for asked, given_names in (("key", FEATURES), ("features", FEATURES - 20)):
        body = modelyard.exchanges(asked, ROWS)["row1"].bodies[3]
        (instance,) = json.loads(body)["instances"]
        assert instance.pop("user") == "u3"
        assert len(instance) == given_names
        assert instance["f29"] == pytest.approx(ROWS[3, 29])
