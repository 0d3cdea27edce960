"""What the README says to type works, on the suite that the demo leaves behind."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from examples.flights.story import Outcome
from examples.flights.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def address(suite: Suite, story: Outcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The README's own lines, in a folder that has the suite where the demo has it.
    (exports,) = [block for block in blocks("sh") if "export" in block]
    assert "http://127.0.0.1:8080" in exports
    home = tmp_path / ".modelyard" / "demo"
    home.parent.mkdir()
    home.symlink_to(suite.home)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    script = f'{exports}\nprintf \'%s\\n\' "$MODELYARD_URL" "$MODELYARD_API_KEY"'
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    url, key = done.stdout.split()
    monkeypatch.setenv("MODELYARD_URL", url.replace("http://127.0.0.1:8080", suite.url))
    monkeypatch.setenv("MODELYARD_API_KEY", key)


def test_python(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    code = blocks("python")
    assert len(code) >= 4
    for block in code:
        exec(compile(block, "README.md", "exec"), names)
    names["client"].close()
    printed = capsys.readouterr().out
    assert "models/late-arrival/versions/2 v2" in printed
    assert "400 WRONG_TYPE ['instances[0].hour', 'instances[0].weekday']" in printed
    assert "STATE_PROMOTED" in printed
    assert "STATE_ROLLED_BACK" in printed
    assert "SEVERITY_CRITICAL" in printed
    assert printed.rstrip().endswith("[80.5]")


@pytest.mark.parametrize("command", [block for block in blocks("sh") if block.startswith("curl")])
def test_curl(command: str) -> None:
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=30)
    answer = json.loads(done.stdout)
    listed = answer.get("predictions") or answer["outputs"]
    assert len(listed) == 1


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
