"""Versions are refused when they are asked for, by what the registry says of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service_kit.errors import FailedPrecondition
from serving_svc.domain import ModelVersion
from serving_svc.runtimes import RuntimeCatalog
from serving_svc.service.admission import AdmittingRegistry
from tests.serving_svc.world import MODEL, V1, FakeRegistry

VERSION = ModelVersion(V1, "onnx", "ab" * 32, 3, 1, b"", "onnx")


class OneVersion(FakeRegistry):
    """Has the version that it is told."""

    found = VERSION

    def version(self, name: str) -> ModelVersion:
        return self.found


def admit(runtime: str, kind: str, allowed: tuple[str, ...] = ()) -> ModelVersion:
    registry = OneVersion()
    registry.found = replace(VERSION, runtime=runtime, format=kind)
    return AdmittingRegistry(registry, RuntimeCatalog(), allowed).version(V1)


@pytest.mark.parametrize("name", ["onnx", "lightgbm", "xgboost", "skops"])
def test_a_runtime_loads_the_format_of_its_name(name: str) -> None:
    assert admit(name, name).runtime == name


@pytest.mark.parametrize(
    ("runtime", "kind", "reason", "says"),
    [
        ("onnx", "pickle", "FORMAT_UNKNOWN", "'pickle'"),
        ("onnx", "", "FORMAT_UNKNOWN", "''"),
        ("onnx", "lightgbm", "FORMAT_MISMATCH", "with lightgbm"),
        ("nonsense", "onnx", "RUNTIME_NOT_FOUND", "'nonsense'"),
        ("mlflow_pyfunc", "mlflow_pyfunc", "MODEL_CODE_NOT_ALLOWED", f'=["{MODEL}"]'),
    ],
)
def test_what_can_not_be_loaded_is_refused(runtime: str, kind: str, reason: str, says: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        admit(runtime, kind)
    assert (caught.value.reason, caught.value.field) == (reason, "model_version")
    assert says in caught.value.message


def test_code_is_allowed_model_by_model() -> None:
    assert admit("mlflow_pyfunc", "mlflow_pyfunc", (MODEL,)).name == V1
    with pytest.raises(FailedPrecondition, match="MODEL_CODE_NOT_ALLOWED"):
        admit("mlflow_pyfunc", "mlflow_pyfunc", (f"{MODEL}s", "models/other"))
