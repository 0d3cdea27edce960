"""The plugin that plugins/README.md writes out."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from monitor_svc.domain.comparison import Comparison
from service_kit.plugins import PluginCatalog, configure

README = Path(__file__).parents[2] / "plugins" / "README.md"
GROUP = "modelyard.detectors"


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_it_is_short_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = block("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "my_detector.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    announced = tomllib.loads(block("toml"))["project"]["entry-points"][GROUP]
    catalog = PluginCatalog([EntryPoint(name, value, GROUP) for name, value in announced.items()])
    try:
        assert catalog.check(GROUP, "range") == []
        detector = configure(catalog.load(GROUP, "range"), {"threshold": 0.1})
    finally:
        sys.modules.pop("my_detector", None)
    window = Comparison("x", True, np.array([0, 9, 1, 0]), np.array([1, 5, 2, 2]))
    score = detector.score(window)
    assert (score.score, score.threshold, score.drifted) == (pytest.approx(0.3), 0.1, True)
