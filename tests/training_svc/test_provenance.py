"""Which code and environment a run used."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from training_svc.provenance import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_commit_is_dirty_when_files_were_changed(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "dirty").mkdir()
    for folder in tmp_path.iterdir():
        git(folder, "init", "-q")
        (folder / "file").write_text("1")
        git(folder, "add", "file")
        git(folder, "commit", "-qm", "first")
    (tmp_path / "dirty" / "file").write_text("2")
    for name, suffix in (("clean", ""), ("dirty", "-dirty")):
        commit = git(tmp_path / name, "rev-parse", "HEAD")
        assert provenance(tmp_path / name).code_commit == commit + suffix


def test_without_a_repository_the_version_counts(tmp_path: Path) -> None:
    found = provenance(tmp_path)
    assert found.code_commit.startswith("modelyard-")
    assert re.fullmatch("[0-9a-f]{64}", found.environment_hash)
