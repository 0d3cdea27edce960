"""A first load elsewhere: a file that ends its library's process ends nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving_svc.runtimes import ModelUnusableError
from serving_svc.runtimes.trial import try_out
from tests.serving_svc import models
from tests.serving_svc.runtimes import forests
from tests.serving_svc.runtimes.forests import Fork, Leaf


def test_what_loads_is_tried_once(tmp_path: Path) -> None:
    path = models.write(tmp_path / "model", models.onnx_linear())
    try_out("onnx", path, models.INPUTS, 1, {"threads": 2})
    assert [each.name for each in tmp_path.glob("*.ok")] == ["model.onnx-3-1.ok"]
    path.unlink()
    try_out("onnx", path, models.INPUTS, 1, {})


def test_code_that_it_compiles_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "compiled"))
    tree = Fork(0, 0.5, Leaf({0: 0.0}), Leaf({0: 1.0}))
    path = forests.written(tmp_path, forests.regressor([tree] * 30, 2))
    try_out("onnx", path, 2, 1, {})
    assert list((tmp_path / "compiled").rglob("*.nbc"))


def test_why_it_does_not_load_is_said(tmp_path: Path) -> None:
    path = models.write(tmp_path / "model", models.onnx_linear())
    with pytest.raises(ModelUnusableError, match="3 inputs, its signature 4"):
        try_out("onnx", path, 4, 1, {})
    with pytest.raises(ModelUnusableError, match="PLUGIN_CONFIG_INVALID"):
        try_out("onnx", path, 3, 1, {"threads": 0})
    assert not list(tmp_path.glob("*.ok"))


def test_a_file_that_crashes_its_library_is_refused_with_that_reason(tmp_path: Path) -> None:
    text = models.booster().model_to_string().replace("num_leaves=7", "num_leaves=70000", 1)
    path = models.write(tmp_path / "model", text.encode())
    with pytest.raises(ModelUnusableError, match="its process ended with SIGABRT"):
        try_out("lightgbm", path, 3, 1, {})
