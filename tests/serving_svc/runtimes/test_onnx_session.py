"""ONNX Runtime: which device scores; what it scores is compared where models are converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving_svc.runtimes import ModelUnusableError, make_runtime
from serving_svc.runtimes.onnx_session import CPU, CUDA, providers
from tests.serving_svc import models


def has_gpu() -> bool:
    """Whether ONNX Runtime is built with CUDA and the driver is there."""
    import ctypes

    import onnxruntime

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return CUDA in onnxruntime.get_available_providers()


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


@pytest.fixture
def claims_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that has CUDA, on a machine where its libraries can't be loaded: as ONNX Runtime
    goes on then, with the CPU."""
    import onnxruntime

    built_in = onnxruntime.get_available_providers()
    if CUDA not in built_in:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, *built_in])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


@pytest.mark.usefixtures("claims_cuda")
@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_a_gpu_that_cant_be_used_is_said_or_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = models.write(tmp_path / "model", models.onnx_linear(1.0))
    with pytest.raises(ModelUnusableError, match="can't use the GPU"):
        make_runtime("onnx", {"device": "cuda"}).load(path, models.INPUTS, 1)
    score = make_runtime("onnx", {}).load(path, models.INPUTS, 1)
    assert score(np.ones((2, 3), np.float32)).tolist() == [[3.0], [3.0]]
    assert "the CPU scores" in caplog.text


@pytest.mark.skipif(not has_gpu(), reason="there is no GPU")
def test_the_gpu_scores_as_the_cpu_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = models.write(tmp_path / "model", models.onnx_linear(1.0))
    scorers = [
        make_runtime("onnx", {"device": device}).load(path, models.INPUTS, 1)
        for device in ("cpu", "cuda", "auto")
    ]
    rows = np.random.default_rng(1).normal(size=(1_000, models.INPUTS)).astype(np.float32)
    expected, *found = [score(rows) for score in scorers]
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-5)
    assert "the CPU scores" not in caplog.text
