"""The closed loop on real flights, shortened: what came of it, and what is on record."""

from __future__ import annotations

import re
import time
import urllib.parse
from datetime import datetime, timedelta

import httpx
import pytest

from client.sdk import Client
from examples.flights.data import ENTITY_KEYS
from examples.flights.definitions import ENDPOINT, MODEL, MONITOR, NAME
from examples.flights.features import MODEL_FEATURES
from examples.flights.story import FAST, Outcome
from examples.flights.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

SHA256 = re.compile(r"[a-z]+/[0-9a-f]{64}", re.IGNORECASE)


def test_the_loop_closes(story: Outcome) -> None:
    assert story.missing == []


def test_the_first_version_is_registered_with_its_lineage(client: Client, story: Outcome) -> None:
    run = story.first_run
    steps = [(step["step"], step["state"]) for step in run["steps"]]
    names = ("validate", "snapshot", "features", "train", "evaluate", "compare", "register")
    assert steps == [(name, "STATE_DONE") for name in (*names, "roll_out")]
    version = client.get(run["model_version"])
    lineage = version["lineage"]
    assert lineage["pipeline_run"] == run["name"]
    assert lineage["training_set"] == run["training_set"]
    assert SHA256.fullmatch(lineage["training_set"])
    assert SHA256.fullmatch(lineage["snapshot"])
    assert lineage["feature_service"] == "featureServices/late_arrival"
    assert lineage["feature_definitions_hash"]
    assert lineage["environment_hash"]
    assert lineage["tracking_run_id"]
    assert lineage["seed"] == "2013"
    assert version["runtime"] == "onnx"
    assert {"model", "source_model", "plot"} <= {each["role"] for each in version["artifacts"]}
    assert 0.45 < version["metrics"]["pr_auc"] < 0.70, "above .70 something leaks"


def test_the_training_set_is_what_the_lineage_says(client: Client, story: Outcome) -> None:
    training_set = client.get(story.first_run["training_set"])
    assert training_set["snapshot"] == story.first_run["snapshot"]
    columns = {field["name"] for field in training_set["fields"]}
    assert set(MODEL_FEATURES) <= columns
    assert 70_000 < int(training_set["row_count"]) < 80_000


def test_mlflow_has_the_run_with_parameters_metrics_and_plots(
    client: Client, suite: Suite, story: Outcome
) -> None:
    version = client.get(story.first_run["model_version"])
    run_id = version["lineage"]["tracking_run_id"]
    with httpx.Client(base_url=f"http://127.0.0.1:{suite.port + 40}/api/2.0/mlflow") as mlflow:
        run = mlflow.get("/runs/get", params={"run_id": run_id}).raise_for_status().json()["run"]
        listed = mlflow.get("/artifacts/list", params={"run_id": run_id}).raise_for_status().json()
        files = {each["path"] for each in listed["files"]}
        for folder in [each["path"] for each in listed["files"] if each["is_dir"]]:
            query = urllib.parse.urlencode({"run_id": run_id, "path": folder})
            below = mlflow.get(f"/artifacts/list?{query}").raise_for_status().json()
            files |= {each["path"] for each in below.get("files", [])}
    data = run["data"]
    parameters = {each["key"]: each["value"] for each in data["params"]}
    metrics = {each["key"]: each["value"] for each in data["metrics"]}
    tags = {each["key"]: each["value"] for each in data["tags"]}
    assert parameters["num_leaves"] == "31"
    assert metrics["pr_auc"] == pytest.approx(version["metrics"]["pr_auc"])
    assert tags["modelyard.training_set"] == version["lineage"]["training_set"]
    assert tags["modelyard.code_commit"] == version["lineage"]["code_commit"]
    for plot in ("precision_recall", "calibration", "feature_importance"):
        assert any(plot in name and name.endswith(".png") for name in files), (plot, files)


def test_predictions_are_answered_with_features(story: Outcome) -> None:
    features = story.answer["features"]
    assert set(MODEL_FEATURES) <= set(features)
    assert set(ENTITY_KEYS) <= set(features)
    assert all(features[name] is not None for name in MODEL_FEATURES)
    assert 0 < story.answer["outputs"]["score"] < 1
    assert story.answer["model_version"] == f"{MODEL}/versions/1"
    assert story.ledger.fallbacks == 0


def test_drift_is_alerted_where_the_season_changes(story: Outcome) -> None:
    alert = next(each for each in story.alerts if each["kind"] == "drift")
    assert alert["severity"] == "SEVERITY_CRITICAL"
    assert {"temp", "dewp"} <= set(alert["features"])
    assert not {"hour", "weekday", "distance", "plane_age", "seats"} & set(alert["features"])


def test_drift_starts_the_retraining(story: Outcome) -> None:
    run = story.drift_runs[0]
    alert = next(each for each in story.alerts if each["kind"] == "drift")
    assert run["trigger"]["source"] == alert["name"]
    results = [
        action["result"] for action in alert["actions"] if action["response"] == "RESPONSE_RETRAIN"
    ]
    assert run["name"] in results
    assert run["state"] == "STATE_SUCCEEDED"
    assert run["gate"]["outcome"] == "OUTCOME_PASSED"
    gain = next(each for each in run["gate"]["checks"] if each["check"] == "pr_auc_gain")
    assert 0 < gain["lower"] <= gain["value"] <= gain["upper"]


def test_the_good_challenger_is_promoted_step_by_step(client: Client, story: Outcome) -> None:
    rollout = next(each for each in story.rollouts if each["state"] == "STATE_PROMOTED")
    assert rollout["name"] == story.drift_runs[0]["rollout"]
    steps = [each["step"] for each in rollout["events"] if each["decision"] == "advanced"]
    assert steps == ["shadow", "5%", "25%", "50%"]
    assert int(rollout["events"][-1]["samples"]) >= 4 * FAST.pace.step_samples
    assert client.get(f"{MODEL}/aliases/champion")["name"] == rollout["model_version"]
    traffic = client.get(ENDPOINT)["traffic"]
    assert [(each["model_version"], each["weight"]) for each in traffic["variants"]] == [
        (rollout["model_version"], 100)
    ]


def test_the_reference_follows_the_promotion(client: Client, story: Outcome) -> None:
    first, second = story.references
    assert first["reference_model_version"] == f"{MODEL}/versions/1"
    assert first["reference_training_set"] == story.first_run["training_set"]
    assert "reference_since" not in first
    promoted = next(each for each in story.rollouts if each["state"] == "STATE_PROMOTED")
    assert second["reference_model_version"] == promoted["model_version"]
    lineage = client.get(promoted["model_version"])["lineage"]
    assert second["reference_training_set"] == lineage["training_set"]
    # By the replay's time, not by ours: a Monday, after the drift and once the new one answered.
    since = datetime.fromisoformat(second["reference_since"])
    alert = next(each for each in story.alerts if each["kind"] == "drift")
    assert datetime.fromisoformat(alert["event_time"]) < since <= FAST.end + timedelta(days=7)
    assert since.weekday() == 0
    assert alert["state"] == "STATE_RESOLVED"
    assert promoted["model_version"] in alert["comment"]


def test_the_broken_challenger_is_refused_and_rolled_back(client: Client, story: Outcome) -> None:
    assert story.broken_run["gate"]["outcome"] == "OUTCOME_REFUSED"
    assert story.broken_run["gate"]["reasons"]
    rollout = story.broken_rollout
    assert rollout["model_version"] == story.broken_run["model_version"]
    assert rollout["events"][-1]["decision"] == "rolled_back"
    assert int(rollout["events"][-1]["samples"]) < 2_000
    assert client.get(rollout["model_version"])["stage"] == "STAGE_ARCHIVED"
    tables = list(client.list(f"{ENDPOINT}/trafficTables", "traffic_tables"))
    assert all(table["actor"] for table in tables), "somebody changed the traffic unnamed"


def test_nothing_is_lost_and_nothing_counted_twice(client: Client, story: Outcome) -> None:
    ledger = story.ledger
    # The two that step 4 asked for were logged as well.
    wanted = (len(ledger.asked) + 2, ledger.outcomes)
    deadline = time.monotonic() + 10
    while (found := counted(client)) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == wanted
    assert 1_000 < ledger.outcomes < len(ledger.asked)


def counted(client: Client) -> tuple[int, int]:
    """Answered predictions, and those of them with a label, as the monitor counts them."""
    report = client.get(f"{MONITOR}/performance", group_by="MONTH")
    answered = [each for each in report["windows"] if each["role"] == "primary"]
    rows = sum(int(each["row_count"]) for each in answered)
    return rows, sum(int(each["labelled_count"]) for each in answered)


def test_the_pace_of_the_windows(client: Client, story: Outcome) -> None:
    windows = list(client.list(f"monitors/{NAME}/windows", "windows"))
    weeks = (FAST.end - FAST.start) // timedelta(days=7)
    assert len(windows) == weeks
    assert sum(each.get("skipped", False) for each in windows) == 0
    assert len(story.ledger.asked) > 5_000
