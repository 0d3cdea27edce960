"""MLflow's Python models, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow.models import infer_signature

from serving_svc.runtimes import ModelUnusableError, make_runtime, warmed
from serving_svc.runtimes.guest import GuestDownError
from serving_svc.runtimes.mlflow_pyfunc import unpack

OURS = {"python": sys.executable}
NAMES = ["a", "b", "c"]


class Weighted(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Sums its columns, two of them by name, and does on request what models should not."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        first = float(model_input["a"].iloc[0])
        if first == 13:
            raise ValueError("unlucky")
        if first == 14:
            time.sleep(60)
        if first == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        if first == 16:
            return bytearray(8 << 30)
        if first == 17:
            secrets = [name for name in os.environ if "MODELYARD" in name]
            return np.full(len(model_input), len(secrets), dtype=float)
        return model_input["a"] + 2 * model_input["b"] + model_input.iloc[:, 2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    example = pd.DataFrame({name: [0.5, 1.5] for name in NAMES})
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=Weighted(),
        signature=infer_signature(example, np.zeros(2)),
        pip_requirements=["mlflow"],
    )
    return Path(shutil.make_archive(str(folder / "archive"), "zip", folder / "model"))


@pytest.fixture
def load(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    monkeypatch.setenv("MODELYARD_SERVICE_TOKEN", "secret")
    made = []

    def start(**config: Any) -> Any:
        scorer: Any = make_runtime("mlflow_pyfunc", OURS | config).load(archive, 3, 1)
        made.append(scorer)
        return scorer

    yield start
    for each in made:
        each.guest.stop()


def rows(first: float, count: int = 3) -> Any:
    return np.array([[first, 2.0, 3.0]] * count, dtype=np.float32)


def until(scorer: Any, seconds: float = 30.0) -> Any:
    """Scores as soon as the process is back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return scorer(rows(1.0))
        except GuestDownError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_it_scores_by_the_names_of_its_columns_and_sees_no_secret(
    load: Callable[..., Any],
) -> None:
    scorer = warmed(load(), 3, 1)
    table = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    expected = table.astype(float) @ [1.0, 2.0, 1.0]
    assert np.allclose(scorer(table)[:, 0], expected, atol=1e-5)
    assert scorer(rows(17.0)).tolist() == [[0.0]] * 3
    with pytest.raises(ModelUnusableError, match="ValueError: unlucky"):
        scorer(rows(13.0))
    assert scorer(rows(1.0))[0] == 8.0


@pytest.mark.parametrize("first", [14.0, 15.0])
def test_one_that_hangs_or_dies_is_ended_and_started_again(
    load: Callable[..., Any], first: float
) -> None:
    scorer = load(call_s=1.0)
    before = scorer.guest.pid
    with pytest.raises(GuestDownError):
        scorer(rows(first))
    with pytest.raises(GuestDownError):
        scorer(rows(1.0))
    assert until(scorer)[0] == 8.0
    assert scorer.guest.pid not in (0, before)
    assert not psutil.pid_exists(before)


def test_memory_is_limited(load: Callable[..., Any]) -> None:
    scorer = load(memory_mib=4096)
    with pytest.raises(ModelUnusableError, match="MemoryError"):
        scorer(rows(16.0))
    with pytest.raises(ModelUnusableError):
        load(memory_mib=64)


def test_it_ends_with_its_scorer(archive: Path) -> None:
    scorer: Any = make_runtime("mlflow_pyfunc", OURS).load(archive, 3, 1)
    pid = scorer.guest.pid
    assert psutil.pid_exists(pid)
    del scorer
    assert not psutil.pid_exists(pid)


def test_one_that_can_not_be_loaded_is_refused(archive: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as file:
        file.writestr("MLmodel", "flavors: {}")
        file.writestr("requirements.txt", "mlflow")
    with pytest.raises(ModelUnusableError):
        make_runtime("mlflow_pyfunc", OURS).load(broken, 3, 1)
    with pytest.raises(ModelUnusableError, match="can't be started"):
        make_runtime("mlflow_pyfunc", {"python": "/nowhere"}).load(archive, 3, 1)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..\\outside"])
def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(name, "x")
    with pytest.raises(ModelUnusableError, match="outside"):
        unpack(tmp_path / "a.zip", tmp_path / "to", 1000)
    assert not (tmp_path / "outside").exists()


def test_an_archive_with_a_link_or_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(ModelUnusableError, match="outside"):
        unpack(tmp_path / "link.zip", tmp_path / "to", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("MLmodel", "x" * 100_000)
    with pytest.raises(ModelUnusableError, match="larger"):
        unpack(tmp_path / "bomb.zip", tmp_path / "to", 1000)
    flipped = bytearray((tmp_path / "bomb.zip").read_bytes())
    flipped[50:60] = b"\xff" * 10
    (tmp_path / "damaged.zip").write_bytes(flipped)
    with pytest.raises(ModelUnusableError, match="no zip"):
        unpack(tmp_path / "damaged.zip", tmp_path / "to", 1 << 20)
    (tmp_path / "text").write_bytes(b"nonsense")
    with pytest.raises(ModelUnusableError, match="no zip"):
        unpack(tmp_path / "text", tmp_path / "to", 1000)
