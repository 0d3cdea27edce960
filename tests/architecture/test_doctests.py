"""What docstrings say that a call gives, it gives."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.architecture.test_house import PACKAGES, ROOT


def modules_with_examples() -> list[str]:
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [_name(path) for path in paths if ">>> " in path.read_text()]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted
    assert not outcome.failed
