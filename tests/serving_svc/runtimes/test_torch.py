"""PyTorch's formats, where PyTorch is installed; and what is said where it is not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_svc.runtimes import ModelUnusableError, make_runtime, warmed
from tests.serving_svc.runtimes.examples import WIDTH, rows

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: make torch"
)
LAYERS = [["Linear", WIDTH, 8], ["ReLU"], ["BatchNorm1d", 8], ["Linear", 8, 2], ["Softmax", 1]]


def network() -> Any:
    from torch import manual_seed, nn

    manual_seed(5)
    return nn.Sequential(*(getattr(nn, name)(*given) for name, *given in LAYERS)).eval()


def table() -> Any:
    return np.nan_to_num(rows())


def expected(module: Any) -> Any:
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(table())).numpy()


def save(path: Path, module: Any, layers: Any) -> Path:
    from safetensors.torch import save_file

    save_file(module.state_dict(), path, {"modelyard.architecture": json.dumps(layers)})
    return path


@needs_torch
def test_torchscript_scores_as_its_module(tmp_path: Path) -> None:
    import torch

    module, path = network(), tmp_path / "model"
    torch.jit.trace(module, torch.zeros(2, WIDTH)).save(str(path))
    scorer = warmed(make_runtime("torchscript").load(path, WIDTH, 2), WIDTH, 2)
    assert np.array_equal(scorer(table()), expected(module))
    one = warmed(make_runtime("torchscript").load(path, WIDTH, 1), WIDTH, 1)
    assert np.array_equal(one(table())[:, 0], expected(module)[:, 1])


@needs_torch
def test_safetensors_score_as_their_module(tmp_path: Path) -> None:
    module = network()
    path = save(tmp_path / "model", module, LAYERS)
    scorer = warmed(make_runtime("safetensors").load(path, WIDTH, 2), WIDTH, 2)
    assert np.array_equal(scorer(table()), expected(module))


@needs_torch
@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([["Module"]], "must be one of"),
        ([["__class__"]], "must be one of"),
        ([["Linear", "x", 1]], "numbers"),
        ([["Linear", 10**9, 10**9]], "numbers"),
        ([["Linear", 4]], "refuses"),
        ([["Linear", WIDTH, 3]], "do not fit"),
        ({}, "must be a list"),
        ([], "must be a list"),
    ],
)
def test_an_architecture_is_data_of_known_layers(tmp_path: Path, layers: Any, why: str) -> None:
    path = save(tmp_path / "model", network(), layers)
    with pytest.raises(ModelUnusableError, match=why):
        make_runtime("safetensors").load(path, WIDTH, 2)


@needs_torch
@pytest.mark.parametrize("runtime", ["torchscript", "safetensors"])
def test_what_is_no_model_is_refused(tmp_path: Path, runtime: str) -> None:
    (tmp_path / "model").write_bytes(b"nonsense")
    with pytest.raises(ModelUnusableError):
        make_runtime(runtime).load(tmp_path / "model", WIDTH, 1)


@needs_torch
def test_another_width_fails_at_the_load(tmp_path: Path) -> None:
    path = save(tmp_path / "model", network(), LAYERS)
    with pytest.raises(ModelUnusableError):
        warmed(make_runtime("safetensors").load(path, WIDTH + 1, 2), WIDTH + 1, 2)


@pytest.mark.parametrize("module", ["torch_script", "torch_safetensors"])
def test_without_pytorch_the_plugin_says_so(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "serving_svc.runtimes.torch_device", raising=False)
    monkeypatch.delitem(sys.modules, f"serving_svc.runtimes.{module}", raising=False)
    with pytest.raises(ImportError, match="PyTorch is not installed"):
        importlib.import_module(f"serving_svc.runtimes.{module}")
    monkeypatch.delitem(sys.modules, "serving_svc.runtimes.torch_device", raising=False)
