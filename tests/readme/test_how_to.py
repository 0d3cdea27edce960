"""What the how-to pages say to type works, on the suite that the story leaves behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from examples.flights.story import Outcome
from examples.flights.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture(autouse=True)
def address(suite: Suite, story: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", suite.url)
    monkeypatch.setenv("MODELYARD_API_KEY", suite.key_file.read_text().strip())


def run(page: str) -> dict[str, Any]:
    """Run the Python of a page as one program; gives its names."""
    names: dict[str, Any] = {}
    text = (PAGES / page).read_text()
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, page, "exec"), names)
    names["client"].close()
    return names


def test_score_in_batch(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("score-in-batch.md")
    printed = capsys.readouterr().out
    assert "STATE_SUCCEEDED True" in printed
    assert "'id': 'b', 'field': 'hour', 'reason': 'WRONG_TYPE'" in printed
    scores, snapshot = names["scores"], names["snapshot"]
    assert scores.num_rows == int(snapshot["row_count"]) > 1_000
    first, key, _, last = scores.column_names
    assert (first, key, last) == ("row", "flight_id", "error")
    assert scores["error"].null_count > 0.9 * scores.num_rows
    assert len(set(scores["row"].to_pylist())) == scores.num_rows


def test_explain_a_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("explain-a-prediction.md")["found"]
    printed = capsys.readouterr().out
    assert "endpoints/late-arrival" in printed
    assert "snapshots/" in printed
    values = {each["name"]: each for each in found["inputs"]}
    assert values["hour"]["number"] == 5
    assert values["carrier"]["text"] == "UA"
    assert any("known_time" in each for each in values.values())
