"""Tiny real models, and a registry that serves their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modelyard.data.v1 import data_pb2
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc

INPUTS = 3
WEIGHTS = np.array([[1.0], [2.0], [-1.0]], dtype=np.float32)


def onnx_linear(bias: float = 0.0) -> bytes:
    """An ONNX model: `x @ WEIGHTS + bias`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(WEIGHTS, "w"),
            numpy_helper.from_array(np.array([bias], dtype=np.float32), "b"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def training_data() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Rows of three columns, of which the first two decide the label."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(400, INPUTS)).astype(np.float32)
    return rows, (rows[:, 0] + rows[:, 1] > 0).astype(np.int64)


def booster() -> Any:
    """A small LightGBM classifier."""
    import lightgbm

    rows, labels = training_data()
    params = {"objective": "binary", "num_leaves": 7, "verbose": -1, "num_threads": 1, "seed": 1}
    return lightgbm.train(params, lightgbm.Dataset(rows, labels), num_boost_round=10)


class FakeRegistry(registry_pb2_grpc.RegistryServiceServicer):
    """Serves artifacts and versions of one model; every version is the same linear model."""

    def __init__(self, artifact: bytes) -> None:
        self.serve(artifact, "onnx")
        self.stages: dict[str, int] = {}
        self.aliases: dict[str, str] = {}

    def serve(self, artifact: bytes, runtime: str, kind: str = "") -> None:
        """Have every version be this file, of a format that is named as its runtime by default."""
        self.artifact, self.runtime, self.kind = artifact, runtime, kind or runtime
        self.sha256 = hashlib.sha256(artifact).hexdigest()

    def ReadArtifact(  # noqa: N802
        self, request: registry_pb2.ReadArtifactRequest, _: object
    ) -> Iterator[registry_pb2.ReadArtifactResponse]:
        for at in range(0, len(self.artifact), 1000):
            yield registry_pb2.ReadArtifactResponse(chunk=self.artifact[at : at + 1000])

    def GetModelVersion(  # noqa: N802
        self, request: registry_pb2.GetModelVersionRequest, _: object
    ) -> registry_pb2.ModelVersion:
        fields = [data_pb2.InputField(name=f"f{n}") for n in range(INPUTS)]
        return registry_pb2.ModelVersion(
            name=request.name,
            runtime=self.runtime,
            artifacts=[
                registry_pb2.VersionArtifact(
                    role="model", artifact=f"artifacts/{self.sha256}", format=self.kind
                )
            ],
            signature=data_pb2.Signature(inputs=fields, outputs=["late"]),
        )

    def TransitionModelVersion(  # noqa: N802
        self, request: registry_pb2.TransitionModelVersionRequest, _: object
    ) -> registry_pb2.ModelVersion:
        self.stages[request.name] = request.stage
        return registry_pb2.ModelVersion(name=request.name)

    def SetModelAlias(  # noqa: N802
        self, request: registry_pb2.SetModelAliasRequest, _: object
    ) -> registry_pb2.Model:
        self.aliases[request.name] = request.model_version
        return registry_pb2.Model()


def write(path: Path, content: bytes) -> Path:
    """Write a file; gives its path."""
    path.write_bytes(content)
    return path
