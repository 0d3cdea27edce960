"""The Wasserstein detector, found, checked and held against scipy."""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from monitor_svc.domain.comparison import Comparison, NamedDetector, compare
from monitor_svc.domain.judging import judge
from monitor_svc.domain.profiles import Numbers, Reference, build_profile
from service_kit.errors import InvalidArgument
from service_kit.plugins import PluginCatalog, configure

FOLDER = Path(__file__).parents[2] / "plugins" / "modelyard-detector-wasserstein"
GROUP = "modelyard.detectors"


@pytest.fixture(scope="module")
def catalog() -> Iterator[PluginCatalog]:
    """What a service sees once the plugin is installed."""
    metadata = tomllib.loads((FOLDER / "pyproject.toml").read_text())
    announced = metadata["project"]["entry-points"][GROUP]
    sys.path.insert(0, str(FOLDER))
    yield PluginCatalog([EntryPoint(name, value, GROUP) for name, value in announced.items()])
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def module(catalog: PluginCatalog) -> ModuleType:
    """The plugin's module."""
    return importlib.import_module("modelyard_detector_wasserstein")


def detector(catalog: PluginCatalog, **config: Any) -> Any:
    return configure(catalog.load(GROUP, "wasserstein"), config)


def numeric(reference: np.ndarray, window: np.ndarray) -> Comparison:
    profile = build_profile(Numbers(reference), len(reference))
    groups = np.zeros(len(window), dtype=np.int64)
    return compare("x", profile, profile.sketches(Numbers(window), groups, 1)[0])


def test_it_is_found_and_conforms(catalog: PluginCatalog) -> None:
    assert "wasserstein" in [plugin.name for plugin in catalog.discover(GROUP)]
    assert catalog.check(GROUP, "wasserstein") == []
    found = catalog.inspect(GROUP, "wasserstein")
    assert (found.state, found.capabilities) == ("ok", {"numeric"})
    assert set(found.config_schema["properties"]) == {"threshold", "false_alarm_rate"}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"threshold": 0}, "config.threshold"),
        ({"threshold": float("nan")}, "config.threshold"),
        ({"false_alarm_rate": 1}, "config.false_alarm_rate"),
        ({"treshold": 0.1}, "config.treshold"),
    ],
)
def test_a_wrong_setting_is_named(
    catalog: PluginCatalog, config: dict[str, float], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        detector(catalog, **config)
    assert caught.value.field == field


def test_it_imports_nothing_of_the_services() -> None:
    tree = ast.parse((FOLDER / "modelyard_detector_wasserstein.py").read_text())
    roots = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots <= {"__future__", "collections", "typing", "numpy", "pydantic"}


@settings(max_examples=60, deadline=None)
@given(
    edges=st.lists(st.integers(-1000, 1000), min_size=1, max_size=12, unique=True).map(sorted),
    data=st.data(),
)
def test_of_histograms_it_is_scipys(module: ModuleType, edges: list[int], data: Any) -> None:
    size = len(edges) + 1
    cells = st.lists(st.integers(0, 50), min_size=size, max_size=size).filter(any)
    first, second = np.array(data.draw(cells)), np.array(data.draw(cells))
    places = module.middles(np.array(edges) / 8)
    expected = stats.wasserstein_distance(places, places, first, second)
    assert module.distance(places, first, second) == pytest.approx(expected, abs=1e-9)
    share = second / second.sum()
    expected_deviation = np.sqrt(np.cov(places, aweights=share, ddof=0))
    assert module.deviation(places, second) == pytest.approx(float(expected_deviation), abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5, 1.5])
def test_of_samples_it_is_scipys_but_for_the_cells(catalog: PluginCatalog, shift: float) -> None:
    rng = np.random.default_rng(3)
    reference, window = rng.normal(50, 7, 30_000), rng.normal(50 + 7 * shift, 7, 3_000)
    # What is beyond the reference counts at its border.
    inside = np.clip(window, reference.min(), reference.max())
    expected = stats.wasserstein_distance(inside, reference) / reference.std()
    score = detector(catalog).score(numeric(reference, window))
    assert score.score == pytest.approx(float(expected), rel=0.03, abs=0.003)
    assert score.drifted is (shift > 0.2)
    assert score.p_value is None


def test_units_do_not_matter(catalog: PluginCatalog) -> None:
    rng = np.random.default_rng(4)
    reference, window = rng.gamma(2, size=5_000), rng.gamma(2.5, size=800)
    plain = detector(catalog).score(numeric(reference, window))
    scaled = detector(catalog).score(numeric(reference * 1e3 - 7, window * 1e3 - 7))
    assert scaled.score == pytest.approx(plain.score)
    assert scaled.threshold == pytest.approx(plain.threshold)


@pytest.mark.parametrize("rows", [25, 200, 2_000])
@pytest.mark.parametrize("draw", ["normal", "standard_exponential", "standard_cauchy"])
def test_without_drift_it_keeps_its_promise(
    catalog: PluginCatalog, module: ModuleType, draw: str, rows: int
) -> None:
    rng = np.random.default_rng(5)
    reference = getattr(rng, draw)(size=20_000)
    windows = [numeric(reference, getattr(rng, draw)(size=rows)) for _ in range(150)]
    found = [detector(catalog, threshold=1e-9).score(each) for each in windows]
    assert np.mean([score.drifted for score in found]) <= 0.05
    # The bound of the mean is a bound, and not a far one where all moments exist.
    places = module.middles(windows[0].edges)
    j = module.spread(places, windows[0].reference)
    j /= module.deviation(places, windows[0].reference)
    mean, bound = np.mean([score.score for score in found]), j * np.sqrt(1 / rows + 1 / 20_000)
    assert mean <= bound
    if draw != "standard_cauchy":
        assert mean >= 0.5 * bound


def test_a_promise_kept_needs_rows(catalog: PluginCatalog) -> None:
    rng = np.random.default_rng(6)
    reference = rng.normal(size=20_000)
    small, large = (detector(catalog).score(numeric(reference, rng.normal(0.3, 1, n)))
                    for n in (30, 5_000))  # fmt: skip
    assert not small.drifted
    assert small.threshold > large.threshold
    assert large.drifted
    assert "standard deviations > " in large.explanation


def test_degenerate_comparisons(catalog: PluginCatalog) -> None:
    same, other = np.full(400, 3.0), np.full(400, 9.0)
    unchanged = detector(catalog).score(numeric(same, same))
    assert (unchanged.score, unchanged.drifted) == (0.0, False)
    moved = detector(catalog).score(numeric(same, other))
    assert (moved.score, moved.drifted) == (1.0, True)
    nothing = detector(catalog).score(numeric(same, np.full(400, np.nan)))
    assert (nothing.score, nothing.drifted) == (0.0, False)
    huge = np.array([-1.7e308, 0.0, 1.7e308] * 50)
    assert np.isfinite(detector(catalog).score(numeric(huge * 1e-160, huge * 1e-160)).score)


def test_the_monitoring_service_judges_with_it(catalog: PluginCatalog) -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(size=5_000)
    profile = build_profile(Numbers(values), len(values))
    reference = Reference({"delay": profile}, len(values))
    groups = np.zeros(2_000, dtype=np.int64)
    window = profile.sketches(Numbers(rng.normal(0.6, 1, 2_000)), groups, 1)[0]
    plugin = catalog.load(GROUP, "wasserstein")
    named = NamedDetector("wasserstein", configure(plugin, {}), capabilities=plugin.capabilities)
    (finding,) = judge(reference, {"delay": window}, [named], 0.01, {})
    assert (finding.drifted, finding.failed) == (True, False)
    assert finding.score == pytest.approx(0.6, abs=0.06)
