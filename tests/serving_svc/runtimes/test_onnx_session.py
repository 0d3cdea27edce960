"""ONNX Runtime: which device scores; what it scores is compared where models are converted."""

from __future__ import annotations

import pytest

from serving_svc.runtimes import ModelUnusableError
from serving_svc.runtimes.onnx_session import CPU, CUDA, providers


@pytest.mark.parametrize(
    ("device", "built_in", "visible", "expected"),
    [
        ("auto", [CUDA, CPU], "0", [CUDA, CPU]),
        ("auto", [CUDA, CPU], None, [CUDA, CPU]),
        ("auto", [CUDA, CPU], "", [CPU]),
        ("auto", [CPU], "0", [CPU]),
        ("cpu", [CUDA, CPU], "0", [CPU]),
        ("cuda", [CUDA, CPU], "1", [CUDA, CPU]),
    ],
)
def test_the_gpu_is_taken_where_the_replica_has_one(
    device: str, built_in: list[str], visible: str | None, expected: list[str]
) -> None:
    assert providers(device, built_in, visible) == expected


@pytest.mark.parametrize(("built_in", "visible"), [([CPU], "0"), ([CUDA, CPU], "")])
def test_a_gpu_that_is_asked_for_and_missing_is_said(built_in: list[str], visible: str) -> None:
    with pytest.raises(ModelUnusableError, match="GPU"):
        providers("cuda", built_in, visible)
