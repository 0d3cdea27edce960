"""Environments of their own, made of names and versions alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving_svc.runtimes import ModelUnusableError
from serving_svc.runtimes.environments import environment, names_and_versions


def test_an_environment_is_made_once_and_has_nothing_of_ours(tmp_path: Path) -> None:
    python = environment("# nothing\n\n", tmp_path, 60.0)
    again = environment("", tmp_path, 60.0)
    assert python == again
    seen = subprocess.run([python, "-I", "-c", "import numpy"], check=False, capture_output=True)
    assert b"ModuleNotFoundError" in seen.stderr
    seen = subprocess.run([python, "-I", "-c", "print(6 * 7)"], check=True, capture_output=True)
    assert seen.stdout == b"42\n"


def test_one_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    python = environment("", tmp_path, 60.0)
    (python.parents[1] / ".ready").unlink()
    python.unlink()
    assert environment("", tmp_path, 60.0).is_file()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url http://localhost/simple",
        "-e .",
        "-r other.txt",
        "./local",
        "/etc/passwd",
        "git+https://example.org/x.git",
        "name @ https://example.org/x.whl",
        "name @ file:///etc/passwd",
    ],
)
def test_options_addresses_and_paths_are_refused(line: str) -> None:
    with pytest.raises(ModelUnusableError):
        names_and_versions(["numpy==2.0", line])


def test_names_and_versions_are_taken() -> None:
    lines = ["mlflow==3.17.2", "pandas<3  # why", "", "xgboost[dask]>=2; python_version>'3'"]
    assert names_and_versions(lines) == [
        "mlflow==3.17.2",
        "pandas<3",
        'xgboost[dask]>=2; python_version > "3"',
    ]


def test_what_can_not_be_installed_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusableError, match="can't be made"):
        environment("pip==0.0.0.1", tmp_path, 120.0)
    assert not list(tmp_path.glob("*/.ready"))
