from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor_svc.detectors import Ks, Psi
from monitor_svc.domain import corrections
from monitor_svc.domain.comparison import Comparison, NamedDetector
from monitor_svc.domain.judging import block_baselines, judge
from monitor_svc.domain.profiles import Numbers, Reference, build_reference
from monitor_svc.domain.sketches import Sketch

DAY = 86_400_000_000
PSI = NamedDetector("psi", Psi(Psi.Config()))
KS = NamedDetector("ks", Ks(Ks.Config(threshold=0.01)), (), frozenset({"numeric"}))


def sketches(reference: Reference, columns: dict[str, np.ndarray]) -> dict[str, Sketch]:
    return {
        name: reference.profiles[name].sketches(
            Numbers(values), np.zeros(len(values), dtype=np.int64), 1
        )[0]
        for name, values in columns.items()
    }


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_corrections_agree_with_scipy_and_order(p_values: list[float]):
    holm = corrections.holm(p_values)
    assert np.all(holm >= np.array(p_values))
    assert np.all(holm <= 1)


def test_examples_run():
    assert doctest.testmod(corrections).failed == 0


def test_false_alarms_are_held_over_all_features():
    rng = np.random.default_rng(7)
    names = [f"f{i}" for i in range(20)]
    reference = build_reference({name: Numbers(rng.normal(size=20_000)) for name in names}, 20_000)
    alarms = 0
    for _ in range(100):
        window = sketches(reference, {name: rng.normal(size=1_000) for name in names})
        alarms += any(f.drifted for f in judge(reference, window, [PSI, KS], 0.01, {}))
    # At 1 % a count above 6 of 100 has a probability of 1e-4.
    assert alarms <= 6


def test_a_column_that_differs_from_day_to_day_anyway_does_not_alarm():
    rng = np.random.default_rng(8)
    days = np.repeat(np.arange(60), 200)
    weather = rng.normal(scale=0.6, size=60)[days] + rng.normal(size=len(days))
    steady = rng.normal(size=len(days))
    reference = build_reference(
        {"weather": Numbers(weather), "steady": Numbers(steady)},
        len(days), days * DAY, DAY, 100,
    )  # fmt: skip
    assert len(reference.blocks) == 60
    baselines = block_baselines(reference, [PSI], 0.01)
    usual = {"weather": rng.normal(0.8, 1, size=200), "steady": rng.normal(size=200)}
    naive = judge(reference, sketches(reference, usual), [PSI], 0.01, {})
    assert {f.feature for f in naive if f.drifted} == {"weather"}
    found = judge(reference, sketches(reference, usual), [PSI], 0.01, baselines)
    assert not any(f.drifted for f in found)
    assert "windows of the reference itself reach" in found[0].explanation
    moved = {"weather": rng.normal(3, 1, size=200), "steady": rng.normal(2, 1, size=200)}
    found = judge(reference, sketches(reference, moved), [PSI], 0.01, baselines)
    assert {f.feature for f in found if f.drifted} == {"weather", "steady"}


class _Failing:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def score(self, comparison: Comparison) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("boom"),
        Psi(Psi.Config())
        .score(Comparison("x", False, np.array([5]), np.array([5])))
        ._replace(p_value=float("nan")),
        None,
    ],
)
def test_a_detector_that_fails_is_never_no_drift_and_disturbs_nobody(answer: object):
    reference = build_reference({"x": Numbers(np.arange(100.0))}, 100)
    broken = NamedDetector("broken", _Failing(answer))  # type: ignore[arg-type]
    window = sketches(reference, {"x": np.arange(500.0, 600.0)})
    found = {f.detector: f for f in judge(reference, window, [broken, PSI], 0.01, {})}
    assert found["broken"].failed
    assert np.isnan(found["broken"].score)
    assert "the detector" in found["broken"].explanation
    assert found["psi"].drifted


def test_a_cut_off_block_tells_nothing_of_windows():
    times = np.concatenate([np.arange(10) * DAY // 20, DAY + np.arange(2_000) * DAY // 200])
    reference = build_reference({"x": Numbers(times / DAY)}, 2_010, times, DAY, 5)
    assert [block["x"].count for block in reference.blocks] == [200] * 10


def test_a_feature_without_rows_is_left_out():
    reference = build_reference({"x": Numbers(np.arange(100.0))}, 100)
    assert judge(reference, sketches(reference, {"x": np.empty(0)}), [PSI], 0.01, {}) == []
    assert judge(reference, {}, [PSI], 0.01, {}) == []
