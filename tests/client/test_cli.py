"""The command, as far as it needs no suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.suite.lock import HomeLock

DEMO = Path(".modelyard") / "demo"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELYARD_HOME", raising=False)
    return CliRunner()


@pytest.mark.parametrize("command", ["status", "down"])
def test_a_suite_below_the_home_is_pointed_at(run: CliRunner, command: str) -> None:
    (DEMO.parent / "ended" / "run").mkdir(parents=True)
    (DEMO.parent / "ended" / "run" / "lock").touch()
    lock = HomeLock(DEMO)
    lock.take()
    said = run.invoke(app, [command]).output
    lock.release()
    assert said.splitlines() == [
        "no suite runs in .modelyard, but below it:",
        f"  modelyard {command} --home .modelyard/demo",
    ]


def test_where_nothing_runs_it_says_how_to_start(run: CliRunner) -> None:
    answer = run.invoke(app, ["status"])
    assert answer.exit_code == 1
    assert answer.output == "no suite runs in .modelyard: start one with `modelyard up`\n"


def test_what_was_pointed_at_works(run: CliRunner) -> None:
    lock = HomeLock(DEMO)
    lock.take()
    state = {"pid": int((DEMO / "run" / "lock").read_text()), "url": "u", "processes": {}}
    (DEMO / "run" / "suite.json").write_text(json.dumps(state))
    answer = run.invoke(app, ["status", "--json", "--home", str(DEMO)])
    lock.release()
    assert json.loads(answer.output) == state
