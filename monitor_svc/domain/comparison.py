"""What a detector is given and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from monitor_svc.domain.profiles import CategoricalProfile, NumericProfile, Profile
from monitor_svc.domain.sketches import CategoricalSketch, Floats, Ints, NumericSketch, Sketch


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """One feature in the reference and in a window, as counts over the same cells.

    Attributes:
        feature: Name of the feature.
        ordered: True for a numeric feature, whose cells have an order.
        reference: Counts of the reference, int64.
        window: Counts of the window, int64, over the same cells.
        reference_missing: Rows of the reference without a value.
        window_missing: Rows of the window without a value.
        edges: Upper edges of the cells but the last, for a numeric feature.
        categories: Names of the cells, for a categorical feature.
        note: What else is known, in words (a mean that moved, new categories).
    """

    feature: str
    ordered: bool
    reference: Ints
    window: Ints
    reference_missing: int = 0
    window_missing: int = 0
    edges: Floats = field(default_factory=lambda: np.empty(0))
    categories: tuple[str, ...] = ()
    note: str = ""

    @property
    def reference_count(self) -> int:
        """Rows of the reference with a value."""
        return int(self.reference.sum())

    @property
    def window_count(self) -> int:
        """Rows of the window with a value."""
        return int(self.window.sum())


class Score(Protocol):
    """What a detector says of a comparison; any object with these attributes will do."""

    @property
    def score(self) -> float:
        """Finite; greater is more drift."""
        ...

    @property
    def p_value(self) -> float | None:
        """Probability of such a score without drift, when the detector knows it."""
        ...

    @property
    def threshold(self) -> float:
        """The least score that matters, at this number of rows."""
        ...

    @property
    def drifted(self) -> bool:
        """The detector's own verdict, before any correction for many features."""
        ...

    @property
    def explanation(self) -> str:
        """In words."""
        ...


class Detector(Protocol):
    """A configured detector plugin."""

    def score(self, comparison: Comparison) -> Score:
        """Hold a window against its reference; deterministic, without side effects."""
        ...


@dataclass(frozen=True, slots=True)
class NamedDetector:
    """A detector with the name it is configured by and the features it looks at (all if none)."""

    name: str
    detector: Detector
    features: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset({"numeric", "categorical"})

    def looks_at(self, feature: str, profile: Profile) -> bool:
        """Whether it is meant for a feature of this kind."""
        kind = "numeric" if isinstance(profile, NumericProfile) else "categorical"
        return kind in self.capabilities and (not self.features or feature in self.features)


def compare(feature: str, profile: Profile, window: Sketch) -> Comparison:
    """Line up a window with its reference; raises ValueError when their kinds differ."""
    if isinstance(profile, NumericProfile) and isinstance(window, NumericSketch):
        return Comparison(
            feature, True, profile.sketch.cells, window.cells,
            profile.sketch.missing, window.missing,
            edges=profile.edges, note=_numeric_note(profile.sketch, window),
        )  # fmt: skip
    if isinstance(profile, CategoricalProfile) and isinstance(window, CategoricalSketch):
        return Comparison(
            feature, False, profile.sketch.cells, window.cells,
            profile.sketch.missing, window.missing,
            categories=(*profile.categories, "other", "new"), note=_categorical_note(window),
        )  # fmt: skip
    raise ValueError("the window was sketched over another reference")


def _numeric_note(reference: NumericSketch, window: NumericSketch) -> str:
    return f"mean {reference.mean:.4g} -> {window.mean:.4g}" if window.count else "no values"


def _categorical_note(window: CategoricalSketch) -> str:
    unseen = int(window.cells[-1])
    if not unseen:
        return ""
    return f"{unseen} rows of {_many(list(window.new))} not in the reference"


def _many(names: Sequence[str]) -> str:
    return "1 category" if len(names) == 1 else f"{len(names)} categories"
