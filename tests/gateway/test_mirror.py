"""What happens after the answer: shadows, and the arms of experiments."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest
from modelyard.events.v1 import events_pb2

from service_kit.metrics import REGISTRY
from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT, ask, split
from tests.gateway.conftest import Suite
from tests.gateway.fakes import Rows, const, total


def test_a_shadow_scores_after_the_answer_and_slows_nothing(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2), delay=0.3)
    split(
        suite,
        tables.variant("v1", 10_000),
        tables.variant("v2", 0, shadow=10_000),
        replicas={"v1": one.address, "v2": two.address},
    )
    began = time.monotonic()
    (prediction,) = ask(suite)
    assert time.monotonic() - began < 0.25
    suite.settle()
    batches = suite.predictions(2)
    roles = {each.batch.variant: each.batch.role for each in batches}
    kinds = events_pb2.PredictionBatch
    assert roles == {"v1": kinds.ROLE_PRIMARY, "v2": kinds.ROLE_SHADOW}
    assert [batch["prediction_id"] for batch in batches] == [[prediction["prediction_id"]]] * 2
    assert [batch["score"] for batch in batches] == [[1.0], [2.0]]


def test_a_shadow_takes_its_share(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 10_000),
        tables.variant("v2", 0, shadow=2_500),
        replicas={"v1": one.address, "v2": two.address},
    )
    ask(suite, 1000)
    suite.settle()
    batches = suite.predictions(2)
    assert 180 < sum(len(b["score"]) for b in batches if b.batch.variant == "v2") < 320


PAIR = {"experiment": "experiments/e", "arms": ["v1", "v2"]}


def test_in_a_paired_experiment_both_arms_score_every_request(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000, shadow=10_000),
        replicas={"v1": one.address, "v2": two.address},
        paired=True,
        **PAIR,
    )
    predictions = ask(suite, 40)
    suite.settle()
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    assert (batch.experiment, list(batch.arms)) == ("experiments/e", ["v1", "v2"])
    assigned = dict(zip(batch.prediction_ids, batch.assigned, strict=True))
    assert assigned == {p["prediction_id"]: int(p["variant"] == "v2") for p in predictions}
    assert set(batch.assigned) == {0, 1}
    assert list(batch.scores) == [1.0, 2.0] * 40
    assert all(latency > 0 for latency in batch.latencies_us)
    assert batch.errors == bytes(80)
    logged = suite.predictions(4)
    rows = Counter()
    for each in logged:
        rows[each.batch.variant, each.batch.role] += len(each["score"])
    assert rows["v1", 1] + rows["v1", 2] == rows["v2", 1] + rows["v2", 2] == 40


def test_in_an_unpaired_experiment_only_the_assigned_arm_scores(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000),
        replicas={"v1": one.address, "v2": two.address},
        **PAIR,
    )
    ask(suite, 20)
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    for row, arm in enumerate(batch.assigned):
        scores = batch.scores[2 * row : 2 * row + 2]
        assert scores[arm] == arm + 1
        assert math.isnan(scores[1 - arm])
        assert batch.latencies_us[2 * row + 1 - arm] == 0


def test_a_failing_arm_is_an_error_of_that_arm(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    two.error = "MODEL_FAILED"
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000),
        replicas={"v1": one.address, "v2": two.address},
        paired=True,
        **PAIR,
    )
    predictions = ask(suite, 20)
    assert {p["variant"] for p in predictions} == {"v1"}
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    assert batch.errors == bytes([0, 1] * 20)
    assert set(batch.assigned) == {0, 1}
    assert list(batch.scores[::2]) == [1.0] * 20
    assert all(math.isnan(score) for score in batch.scores[1::2])


def test_paired_arms_reuse_the_features_that_were_read(suite: Suite) -> None:
    one, two = suite.replica(total), suite.replica(total)
    suite.push(
        tables.route(
            "late",
            tables.variant("v1", 10_000, of=tables.signature()),
            tables.variant("v2", 0, of=tables.signature()),
            paired=True,
            **PAIR,
        ),
        v1=one.address,
        v2=two.address,
    )
    suite.post(PREDICT, {"instances": [GOOD]})
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    assert list(batch.scores) == [1111.5, 1111.5]
    assert len(suite.features.asks) == 1


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"modelyard_{name}", labels) or 0.0


def test_a_shadow_that_fails_is_logged_as_such_and_nobody_is_slowed(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    two.error = "MODEL_FAILED"
    split(
        suite,
        tables.variant("v1", 10_000),
        tables.variant("v2", 0, shadow=10_000),
        replicas={"v1": one.address, "v2": two.address},
    )
    labels = {"endpoint": "endpoints/ab", "variant": "v2"}
    before = sample("shadow_rows_total", **labels, outcome="failed")
    predictions = ask(suite, 3)
    suite.settle()
    batches = suite.predictions(2)
    (shadow,) = (batch for batch in batches if batch.batch.variant == "v2")
    assert shadow["prediction_id"] == [each["prediction_id"] for each in predictions]
    assert shadow["failure"] == ["MODEL_FAILED"] * 3
    assert set(shadow.columns) == {"prediction_id", "event_time", "failure"}
    two.error = ""
    ask(suite)
    suite.settle()
    (shadow,) = (batch for batch in suite.predictions(2) if batch.batch.variant == "v2")
    assert shadow["score"] == [2.0]
    assert "failure" not in shadow.columns
    assert sample("shadow_rows_total", **labels, outcome="failed") == before + 3


def test_answers_that_are_shadowed_say_how_long_their_model_took(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    both = {"v1": one.address, "v2": two.address}
    v1, shadow = tables.variant("v1", 10_000), tables.variant("v2", 0, shadow=10_000)
    split(suite, v1, shadow, replicas=both)
    ask(suite, 2)
    suite.settle()
    for batch in suite.predictions(2):
        name = "model_latency_us" if batch.batch.variant == "v1" else "latency_us"
        assert batch[name] == [250, 250]
    split(suite, v1, replicas=both)
    ask(suite)
    (batch,) = suite.predictions()
    assert "model_latency_us" not in batch.columns
    split(suite, v1, tables.variant("v2", 0), replicas=both, paired=True, **PAIR)
    ask(suite)
    (answered,) = (each for each in suite.predictions(2) if each.batch.variant == "v1")
    assert answered["model_latency_us"] == [250]


def test_metrics_tell_how_shadows_differ(suite: Suite) -> None:
    def first(rows: Rows) -> Rows:
        return [[row[0]] for row in rows]

    one, two = suite.replica(first), suite.replica(const(0.75), delay=0.02)
    suite.push(
        tables.route(
            "differ", tables.variant("v1", 10_000), tables.variant("v2", 0, shadow=10_000)
        ),
        v1=one.address,
        v2=two.address,
    )
    instances = [{"x0": x, "x1": 0} for x in (0.25, 0.5, 0.745)]
    suite.post("/v1/endpoints/differ:predict", {"instances": instances})
    suite.settle()
    labels = {"endpoint": "endpoints/differ", "variant": "v2"}
    assert sample("shadow_rows_total", **labels, outcome="agreed") == 2
    assert sample("shadow_rows_total", **labels, outcome="differed") == 1
    assert sample("shadow_difference_bucket", **labels, le="0.01") == 1
    assert sample("shadow_difference_bucket", **labels, le="0.5") == 3
    assert sample("shadow_difference_sum", **labels) == pytest.approx(0.755, abs=1e-6)
    assert sample("shadow_seconds_count", **labels) == 1


def test_of_a_group_only_the_rows_that_are_shadowed_are_compared(suite: Suite) -> None:
    def first(rows: Rows) -> Rows:
        return [[row[0]] for row in rows]

    one, two = suite.replica(first), suite.replica(first)
    suite.push(
        tables.route("part", tables.variant("v1", 10_000), tables.variant("v2", 0, shadow=3_000)),
        v1=one.address,
        v2=two.address,
    )
    instances = [{"x0": x, "x1": 0} for x in range(200)]
    suite.post("/v1/endpoints/part:predict", {"instances": instances})
    suite.settle()
    labels = {"endpoint": "endpoints/part", "variant": "v2"}
    rows = sample("shadow_difference_count", **labels)
    assert 30 < rows < 90
    assert sample("shadow_difference_bucket", **labels, le="1e-06") == rows
