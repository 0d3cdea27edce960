from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from monitor_svc.detectors import ChiSquared, JensenShannon, Ks, Psi, pooled_cells
from monitor_svc.domain.comparison import Comparison, compare
from monitor_svc.domain.profiles import Labels, Numbers, build_profile
from monitor_svc.plugins import BUILT_IN
from service_kit.errors import InvalidArgument
from service_kit.plugins import PluginCatalog, configure

ALL = [Psi(Psi.Config()), Ks(Ks.Config()), ChiSquared(ChiSquared.Config())]
ALL.append(JensenShannon(JensenShannon.Config()))  # type: ignore[arg-type]


def numeric(reference: np.ndarray, window: np.ndarray) -> Comparison:
    profile = build_profile(Numbers(reference), len(reference))
    groups = np.zeros(len(window), dtype=np.int64)
    return compare("x", profile, profile.sketches(Numbers(window), groups, 1)[0])


def categorical(reference: list[str], window: list[str]) -> Comparison:
    profile = build_profile(Labels(reference), len(reference))
    groups = np.zeros(len(window), dtype=np.int64)
    return compare("x", profile, profile.sketches(Labels(window), groups, 1)[0])


def counts(reference: list[int], window: list[int]) -> Comparison:
    return Comparison("x", False, np.array(reference), np.array(window))


def test_psi_by_hand():
    score = Psi(Psi.Config()).score(counts([500, 500], [300, 700]))
    p, q = np.array([300.5, 700.5]) / 1001, np.array([500.5, 500.5]) / 1001
    assert score.score == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert score.threshold == pytest.approx(0.25 + 2 / 1000)
    assert not score.drifted
    assert score.p_value is not None
    assert score.p_value < 1e-9


def test_psi_is_near_its_null_distribution():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=20_000)
    p_values = [
        Psi(Psi.Config()).score(numeric(reference, rng.normal(size=800))).p_value
        for _ in range(150)
    ]
    # One reference for all windows: uniform but for its own sampling error.
    assert stats.kstest(np.array(p_values, dtype=float), "uniform").pvalue > 1e-3


def test_ks_agrees_with_scipy():
    rng = np.random.default_rng(2)
    reference, window = rng.normal(size=5_000), rng.normal(0.3, 1, size=900)
    ours = Ks(Ks.Config()).score(numeric(reference, window))
    theirs = stats.ks_2samp(window, reference, method="asymp")
    # The cells are quantiles of 1/128: the distance is a lower bound within one cell.
    assert theirs.statistic - 2 / 128 <= ours.score <= theirs.statistic + 1e-12
    assert np.log(ours.p_value or 0) == pytest.approx(np.log(theirs.pvalue), rel=0.25)
    assert ours.drifted


def test_chi_squared_agrees_with_scipy():
    comparison = counts([400, 300, 300], [100, 60, 90])
    ours = ChiSquared(ChiSquared.Config()).score(comparison)
    theirs = stats.chi2_contingency([[400, 300, 300], [100, 60, 90]], correction=False)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)


def test_jensen_shannon_agrees_with_scipy():
    comparison = counts([400, 300, 300], [100, 60, 90])
    ours = JensenShannon(JensenShannon.Config()).score(comparison)
    theirs = distance.jensenshannon([0.4, 0.3, 0.3], [0.4, 0.24, 0.36], 2)
    assert ours.score == pytest.approx(float(theirs), rel=1e-9)
    assert ours.p_value is None


@pytest.mark.parametrize("detector", ALL, ids=lambda d: type(d).__name__)
def test_a_shift_is_found_and_no_shift_is_not(detector: Psi):
    rng = np.random.default_rng(3)
    reference = rng.normal(size=20_000)
    assert not detector.score(numeric(reference, rng.normal(size=2_000))).drifted
    shifted = detector.score(numeric(reference, rng.normal(1.0, 1, size=2_000)))
    assert shifted.drifted
    assert shifted.score > shifted.threshold
    assert ">" in shifted.explanation


@pytest.mark.parametrize("detector", ALL, ids=lambda d: type(d).__name__)
def test_empty_and_constant_columns_give_finite_scores(detector: Psi):
    for window in (np.empty(0), np.full(50, np.nan), np.full(50, 1.0)):
        score = detector.score(numeric(np.full(100, 1.0), window))
        assert np.isfinite(score.score)
        assert np.isfinite(score.threshold)
        assert score.p_value is None or 0 <= score.p_value <= 1


def test_a_wide_category_does_not_alarm_by_its_width():
    rng = np.random.default_rng(4)
    reference = [f"c{i}" for i in rng.integers(0, 2_000, size=50_000)]
    window = [f"c{i}" for i in rng.integers(0, 2_000, size=1_000)]
    assert not Psi(Psi.Config()).score(categorical(reference, window)).drifted


def test_missing_values_are_drift():
    rng = np.random.default_rng(5)
    window = rng.normal(size=1_000)
    window[:400] = np.nan
    assert Psi(Psi.Config()).score(numeric(rng.normal(size=5_000), window)).drifted


def test_new_categories_are_drift_and_named():
    score = Psi(Psi.Config()).score(categorical(["a", "b"] * 500, ["a"] * 400 + ["z"] * 100))
    assert score.drifted
    assert "100 rows of 1 category not in the reference" in score.explanation


def test_pooling_keeps_every_row():
    rng = np.random.default_rng(6)
    comparison = numeric(rng.exponential(size=3_000), rng.exponential(size=700) - 0.5)
    reference, window = pooled_cells(comparison, 10)
    assert (reference.sum(), window.sum()) == (3_000, 700)
    assert len(reference) == 10
    assert reference.min() > 250


def test_built_in_plugins_conform():
    catalog = PluginCatalog(BUILT_IN)
    for point in BUILT_IN:
        assert catalog.check(point.group, point.name) == []


def test_config_names_the_field():
    with pytest.raises(InvalidArgument) as caught:
        configure(Psi, {"threshold": -1})
    assert caught.value.field == "config.threshold"
