"""The steps of a run over a small world."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service_kit.errors import FailedPrecondition, Unavailable
from tests.training_svc.examples import WHEN, pipeline, run
from tests.training_svc.world import World, flights
from training_svc.domain.pipelines import (
    DataCheck,
    EvaluationSpec,
    GateSpec,
    Pipeline,
    TrainerSpec,
)
from training_svc.ports import Document
from training_svc.steps import Job
from training_svc.tables import from_chunks
from training_svc.trainers import Fitted

SECOND_RUN = "01900000-0000-7000-8000-000000000002"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def job(given: Pipeline | None = None, **changes: Any) -> Job:
    return Job(run(**changes), given or pipeline())


def learned(world: World, given: Job) -> tuple[Document, Document]:
    steps = world.steps
    steps.collecting.validate(given)
    snapshot = steps.collecting.snapshot(given)["snapshot"]
    joined = steps.collecting.join(given, snapshot)
    return joined, steps.learning.train(given, joined)


def whole(world: World, given: Job) -> tuple[Document, Document]:
    """All steps up to the registration; gives the verdict and the version."""
    steps = world.steps
    joined, trained = learned(world, given)
    evaluated = steps.judging.evaluate(given, joined, trained)
    verdict = steps.judging.compare(given, evaluated)
    if verdict["passed"] and verdict["refit"]:
        trained = steps.learning.refit(given, joined, trained)
    results = [joined, trained, evaluated, verdict]
    registered = steps.releasing.register(given, *json.loads(json.dumps(results, allow_nan=False)))
    version = world.versions[int(registered["model_version"].rpartition("/")[2]) - 1]
    return verdict, version


def no_gain(least: float) -> Pipeline:
    spec = EvaluationSpec(holdout=timedelta(days=20), resamples=200)
    return pipeline(gate=GateSpec(min_gain=least), evaluation=spec)


def test_a_first_version_is_registered_with_its_lineage(world: World) -> None:
    given = job()
    verdict, version = whole(world, given)
    assert verdict["passed"]
    assert version["lineage"] == {
        "pipeline_run": given.run.name,
        "tracking_run_id": f"tracked-{given.run.id}",
        "snapshot": version["lineage"]["snapshot"],
        "training_set": version["lineage"]["training_set"],
        "feature_service": "featureServices/flights",
        "feature_definitions_hash": "d" * 64,
        "code_commit": "c0ffee",
        "environment_hash": "e" * 64,
        "seed": 7,
        "parent_version": "",
    }
    assert [each["name"] for each in version["inputs"]] == ["delay", "hour", "carrier"]
    delay, hour, carrier = version["inputs"]
    assert (delay["source"], delay["required"]) == ("FEATURE", False)
    assert (hour["source"], hour["required"]) == ("REQUEST", True)
    assert sorted(carrier["categories"]) == ["AA", "DL", "UA"]
    assert carrier["categories"][-1] == "UA"
    assert version["metrics"]["pr_auc"] > 0.6
    assert version["metrics"]["row_latency_us"] > 0
    roles = [(each[0], each[1]) for each in version["artifacts"]]
    assert roles == [
        ("model", "model.onnx"),
        ("source_model", "model.txt"),
        ("plot", "precision_recall.png"),
        ("plot", "calibration.png"),
        ("plot", "feature_importance.png"),
        ("sample", "sample.arrow"),
        ("holdout", "holdout.arrow"),
    ]
    assert version["parameters"]["num_iterations"] == "20"


def test_after_a_refit_the_version_has_seen_the_whole_window(world: World) -> None:
    _, version = whole(world, job())
    assert datetime.fromisoformat(version["tags"]["modelyard.window_end"]) == WHEN
    assert [each for each in world.journal if each.startswith("fit")][1] == "fit 3000"
    apart = replace(pipeline(), evaluation=EvaluationSpec(holdout=timedelta(days=20)))
    _, version = whole(world, job(apart, id=SECOND_RUN))
    ended = datetime.fromisoformat(version["tags"]["modelyard.window_end"])
    assert ended == WHEN - timedelta(days=20)


def test_the_holdout_is_not_learned_from(world: World) -> None:
    joined, trained = learned(world, job())
    begin = WHEN - timedelta(days=14)
    assert datetime.fromisoformat(trained["holdout_from"]) == begin
    times = np.asarray(world.table["departed"].cast(pa.int64())) / 1e6
    old = int((times < begin.timestamp()).sum())
    assert world.journal == [f"fit {old}"]
    evaluated = world.steps.judging.evaluate(job(), joined, trained)
    content = (world.folder / evaluated["holdout"]).read_bytes()
    assert from_chunks([content]).row_count == len(times) - old


def test_a_challenger_without_gain_is_refused_with_reasons(world: World) -> None:
    whole(world, job(no_gain(0)))
    world.promote(1)
    later = job(no_gain(0.5), id=SECOND_RUN, window_end=WHEN)
    verdict, version = whole(world, later)
    assert not verdict["passed"]
    assert "not above 0.5" in verdict["reasons"][0]
    assert version["lineage"]["parent_version"] == "models/late-arrival/versions/1"
    # Refused versions are registered all the same, as they were judged: without a refit.
    assert len(world.versions) == 2


def test_a_better_challenger_passes(world: World) -> None:
    weak = replace(no_gain(0), trainer=TrainerSpec("lightgbm", {"shuffle_inputs": True}))
    whole(world, job(weak))
    world.promote(1)
    verdict, _ = whole(world, job(no_gain(0), id=SECOND_RUN))
    assert verdict["passed"]
    assert "pr_auc gains +" in verdict["reasons"][0]


def test_champion_and_challenger_are_measured_on_rows_that_neither_has_seen(world: World) -> None:
    early = WHEN - timedelta(days=5)
    whole(world, job(window_end=early))
    world.promote(1)
    joined, trained = learned(world, job(id=SECOND_RUN))
    # The champion was refitted up to `early`, later than two weeks before the end.
    assert datetime.fromisoformat(trained["holdout_from"]) == early
    evaluated = world.steps.judging.evaluate(job(id=SECOND_RUN), joined, trained)
    assert evaluated["champion_metrics"]["rows"] == evaluated["metrics"]["rows"]


def test_a_champion_that_has_seen_everything_leaves_nothing_to_compare_on(world: World) -> None:
    whole(world, job())
    world.promote(1)
    with pytest.raises(FailedPrecondition, match="the champion has learned") as error:
        learned(world, job(id=SECOND_RUN))
    assert error.value.reason == "NO_HOLDOUT"


def test_a_promotion_in_the_middle_of_a_run_changes_nothing(world: World) -> None:
    early = WHEN - timedelta(days=20)
    whole(world, job(window_end=early))
    world.promote(1)
    joined, trained = learned(world, job(id=SECOND_RUN))
    world.promote(7)  # there is no such version: it would be noticed
    evaluated = world.steps.judging.evaluate(job(id=SECOND_RUN), joined, trained)
    assert evaluated["champion_metrics"]


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ((DataCheck("row_count", "", {"min": 5000}),), "3000 rows, at least 5000 are needed"),
        (
            (DataCheck("label_ratio", "late", {"max": 0.01}), DataCheck("null_share", "hour")),
            "of late is positive",
        ),
        ((DataCheck("null_share", "delay", {"max": 0.01}),), "of delay is missing"),
        ((DataCheck("null_share", "nonsense"),), "no column nonsense"),
    ],
)
def test_bad_data_stops_a_run_before_training(
    world: World, checks: tuple[DataCheck, ...], reason: str
) -> None:
    with pytest.raises(FailedPrecondition, match=reason):
        learned(world, job(pipeline(checks=checks)))
    assert world.journal == []


NUMBERS = {"request_features": ("hour",), "categorical_features": ()}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"request_features": ("hour", "carrier", "gate")}, "has no column gate"),
        ({"label_column": "cancelled"}, "has no column cancelled"),
        ({"optional_features": ("gate",)}, "no input gate"),
        ({"categorical_features": ()}, "carrier is neither a number"),
        ({"label_column": "delay", **NUMBERS}, "the label can't"),
        ({"label_column": "hour", **NUMBERS, "request_features": ()}, "must be 0 or 1"),
    ],
)
def test_what_does_not_fit_the_data_is_said(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    given = pipeline(data=replace(pipeline().data, **changes))
    with pytest.raises(FailedPrecondition, match=reason):
        learned(world, job(given))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segments": ("origin",)}, "has no column origin"),
        ({"holdout": timedelta(days=200)}, "the 0 rows before the holdout"),
    ],
)
def test_what_can_not_be_evaluated_is_said(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    given = pipeline(evaluation=replace(pipeline().evaluation, **changes))
    with pytest.raises(FailedPrecondition, match=reason):
        learned(world, job(given))


def test_an_empty_window_is_said(world: World) -> None:
    start = WHEN + timedelta(days=1)
    with pytest.raises(FailedPrecondition, match="no labelled rows"):
        learned(world, job(window_start=start, window_end=start + timedelta(days=1)))


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    table = flights()
    late = table["late"].to_pylist()
    late[::3] = [None] * len(late[::3])
    at = table.column_names.index("late")
    world = World(tmp_path, table.set_column(at, "late", pa.array(late, pa.int64())))
    joined, trained = learned(world, job(pipeline(checks=())))
    assert int(world.journal[0].split()[1]) < 2000
    world.steps.judging.evaluate(job(), joined, trained)


def test_every_step_may_run_twice(world: World) -> None:
    given, steps = job(), world.steps
    first = whole(world, given)
    chosen = steps.releasing.choose(given)
    name = "models/late-arrival/versions/1"
    for _ in range(2):
        assert steps.releasing.roll_out(given, name, chosen)["rollout"] == ""
    assert len(world.versions) == 1
    assert world.journal.count(f"deploy {name}") == 1
    assert first[1] == world.versions[0]


def test_the_first_version_is_deployed_and_later_ones_are_rolled_out(world: World) -> None:
    steps, given = world.steps, job()
    assert steps.releasing.roll_out(given, "m/versions/1", {"serves": ""})["detail"] == (
        "deployed to endpoints/late-arrival"
    )
    found = steps.releasing.roll_out(given, "m/versions/2", {"serves": "m/versions/1"})
    assert found["rollout"] == "endpoints/late-arrival/rollouts/1"
    without = job(pipeline(release=None))
    assert steps.releasing.choose(without) == {"serves": ""}
    assert steps.releasing.roll_out(without, "m/versions/3", {"serves": ""})["rollout"] == ""
    assert world.journal == ["deploy m/versions/1", "roll out m/versions/2"]


def test_a_run_goes_on_untracked(world: World) -> None:
    world.away.add("tracking")
    joined, trained = learned(world, job())
    evaluated = world.steps.judging.evaluate(job(), joined, trained)
    assert evaluated["tracking_run_id"] == ""
    assert evaluated["detail"].endswith("not tracked")


def test_a_peer_that_is_away_is_a_passing_error(world: World) -> None:
    world.away.add("features")
    with pytest.raises(Unavailable):
        world.steps.collecting.validate(job())


def test_a_model_that_converts_badly_is_served_in_its_native_form(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.steps.learning.jobs.fit

    def wrong(*arguments: Any, **named: Any) -> Fitted:
        fitted = real(*arguments, **named)
        other = real(arguments[0], arguments[1], 1 - arguments[2], *arguments[3:])
        return replace(fitted, model=other.model)

    monkeypatch.setattr("tests.training_svc.world.FakeJobs.fit", lambda self, *a: wrong(*a))
    _, trained = learned(world, job())
    assert (trained["runtime"], trained["format"]) == ("lightgbm", "lightgbm")
    assert trained["files"] == []
    assert "no onnx: " in trained["detail"]
    monkeypatch.setattr(
        "tests.training_svc.world.FakeJobs.fit",
        lambda self, *a: replace(wrong(*a), native=""),
    )
    with pytest.raises(FailedPrecondition, match="differ by up to"):
        learned(world, job())
