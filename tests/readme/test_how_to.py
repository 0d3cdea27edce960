"""What the how-to pages say to type works, on the suite that the story leaves behind."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from client import Client, ProblemError
from examples.flights.story import Outcome
from examples.flights.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

FLIGHT = {
    "carrier": "UA",
    "route": "EWR-IAH",
    "origin": "EWR",
    "tailnum": "N14228",
    "hour": 5,
    "weekday": 1,
    "distance": 1400,
}
PAGES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture(autouse=True)
def address(
    suite: Suite, story: Outcome, streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_URL", suite.url)
    monkeypatch.setenv("MODELYARD_REDIS_URL", streams_url)
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


def test_register_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("register-a-model.md")
    printed = capsys.readouterr().out
    assert "models/tips/versions/1 is served by onnx" in printed
    assert "onnx True 2000 rows differ by up to" in printed
    assert "has STATE_REFUSED: the model's file does not score as the model did" in printed
    assert "skops skl2onnx can't convert a HistGradientBoostingClassifier" in printed
    assert names["kept"]["name"] == "models/tips/versions/2", "what was refused is no version"
    (expected,) = names["booster"].predict([[42.0, 2.0, 19.0]])
    prediction = asked("tips", {"bill": 42.0, "guests": 2, "hour": 19})
    assert prediction["outputs"]["score"] == pytest.approx(expected, abs=1e-4)
    assert prediction["model_version"] == names["version"]["name"]


def asked(endpoint: str, instance: dict[str, Any]) -> Any:
    """The first answer of an endpoint that got ready just now, which the gateway hears of soon."""
    deadline = time.monotonic() + 30
    with Client() as client:
        while True:
            try:
                return client.predict(endpoint, [instance])[0]
            except ProblemError as error:
                if error.reason != "ENDPOINT_NOT_FOUND" or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)


def test_score_a_stream(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("score-a-stream.md")
    printed = capsys.readouterr().out
    results = names["results"]
    assert [each["id"] for each in results] == [f"UA1545-{day}" for day in (1, 2, 3)]
    assert all(0 < each["data"]["outputs"]["score"] < 1 for each in results)
    assert "UA1545-4 WRONG_TYPE hour" in printed
    assert "scored 3 refused 1 repeated 1 lag 0" in printed
    assert "endpoints/late-arrival 2013-07-03T09:15:00Z" in printed


def test_explain_a_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("explain-a-prediction.md")["found"]
    printed = capsys.readouterr().out
    assert "endpoints/late-arrival" in printed
    assert "snapshots/" in printed
    values = {each["name"]: each for each in found["inputs"]}
    assert values["hour"]["number"] == 5
    assert values["carrier"]["text"] == "UA"
    assert any("known_time" in each for each in values.values())


def test_compare_a_shadow() -> None:
    found = run("traffic.md")["found"]
    assert not found["truncated"]
    for each in found["comparisons"]:
        assert each["variant"] != each["answered_variant"]
        assert int(each["rows"]) > 0
    # Two versions that answered only while a split was changing share a handful of rows.
    telling = [each for each in found["comparisons"] if int(each["rows"]) > 100]
    assert telling, "the story's rollouts shadow first"
    for each in telling:
        assert 0 < each["class_agreement"] <= 1
        assert each["mean_difference_lower"] < each["mean_difference_upper"]
        assert -1 <= each["spearman"] <= 1
        assert each["latency"]["p50_us"] > 0
        assert each["answered_latency"]["p50_us"] > 0


def test_what_the_split_sticks_to_and_what_is_kept() -> None:
    client = Client()
    client.call(
        *("PATCH", "/v1/endpoints/late-arrival", {"cache_rows": 1_000}),
        params={"update_mask": "cache_rows"},
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            (made,) = client.predict("late-arrival", [FLIGHT], routing_key="somebody")
            if made.get("cached"):
                break
            assert time.monotonic() < deadline, made
            time.sleep(0.1)
    finally:
        client.call(
            *("PATCH", "/v1/endpoints/late-arrival", {"cache_rows": 0}),
            params={"update_mask": "cache_rows"},
        )
    kept = client.get(f"predictions/{made['prediction_id']}")
    client.close()
    assert (kept["cached"], kept["unit_id"]) == (True, "somebody")
