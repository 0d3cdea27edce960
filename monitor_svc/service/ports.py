"""What the use cases need of the world outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from monitor_svc.domain.alerts import Action, Alert, AlertKind
from monitor_svc.domain.comparison import NamedDetector
from monitor_svc.domain.judging import Finding
from monitor_svc.domain.monitors import DetectorSpec, Monitor
from monitor_svc.domain.performance import QualitySketch
from monitor_svc.domain.profiles import Reference, Values
from monitor_svc.domain.sketches import Floats, Ints, Sketch


class Serializable(Protocol):
    """An answer that can be kept for a repetition of its request."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        """Its bytes."""
        ...


M = TypeVar("M", bound=Serializable)


@dataclass(frozen=True, slots=True, eq=False)
class PredictionRows:
    """Predictions of one version, in columns.

    Attributes:
        endpoint: `endpoints/{endpoint}`.
        model_version: `models/{model}/versions/{version}`.
        shadow: Whether nobody got the answers.
        ids: Prediction ids.
        times_us: Event times, microseconds.
        scores: float64.
        columns: Inputs by name, each as long as `ids`.
    """

    endpoint: str
    model_version: str
    shadow: bool
    ids: Sequence[str]
    times_us: Ints
    scores: Floats
    columns: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PredictionKey:
    """One stored prediction."""

    id: str
    model_version: str
    shadow: bool
    endpoint: str
    event_us: int
    score: float


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """What came of one prediction."""

    prediction_id: str
    value: float
    event_us: int


@dataclass(frozen=True, slots=True, eq=False)
class WindowState:
    """A window of a monitor, open or closed."""

    monitor: str
    epoch: int
    start_us: int
    end_us: int
    row_count: int = 0
    sketches: Mapping[str, Sketch] = field(default_factory=dict)
    closed: bool = False
    skipped: bool = False
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class QualityKey:
    """What a quality sketch is of."""

    monitor: str
    window_us: int
    start_us: int
    model_version: str
    shadow: bool


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRows:
    """Rows that a reference is made of; `times_us` when they have a time column."""

    columns: Mapping[str, Values]
    row_count: int
    times_us: Ints | None = None


class MonitorStore(Protocol):
    """Monitors, their references and windows, within one transaction."""

    def once(
        self,
        method: str,
        request_id: str,
        fingerprint: bytes,
        build: Callable[[], M],
        parse: Callable[[bytes], M],
    ) -> M:
        """Answer a repeated request with its first answer."""
        ...

    def lock(self) -> None:
        """Wait until nobody else changes windows, labels or alerts."""
        ...

    def monitor(self, monitor_id: str) -> Monitor | None: ...
    def monitors(self, limit: int, after: str) -> list[Monitor]: ...
    def monitors_of(self, endpoints: Iterable[str]) -> list[Monitor]: ...
    def save_monitor(self, monitor: Monitor) -> None: ...
    def due_followings(self, now: datetime, limit: int) -> list[Monitor]: ...
    def reference(self, monitor_id: str, epoch: int) -> Reference | None: ...
    def save_reference(self, monitor_id: str, epoch: int, reference: Reference) -> None: ...
    def windows(self, monitor: Monitor, starts: Sequence[int]) -> dict[int, WindowState]: ...
    def open_windows(self, monitor_id: str, end_by_us: int | None) -> list[WindowState]: ...
    def judged_windows(self, window: WindowState, limit: int) -> list[WindowState]: ...
    def closed_windows(self, monitor_id: str, limit: int, before: str) -> list[WindowState]: ...
    def save_windows(self, windows: Sequence[WindowState]) -> None: ...


class LabelStore(Protocol):
    """Predictions, outcomes and the quality sketched of them, within one transaction."""

    def known_predictions(self, ids: Sequence[str]) -> set[tuple[str, str, bool]]: ...
    def add_predictions(self, rows: Sequence[PredictionKey]) -> None: ...
    def predictions(self, ids: Sequence[str]) -> list[PredictionKey]: ...
    def outcomes(self, metric: str, ids: Sequence[str]) -> dict[str, OutcomeRow]: ...
    def save_outcomes(self, metric: str, rows: Sequence[OutcomeRow], arrived: datetime) -> None: ...
    def qualities(self, keys: Sequence[QualityKey]) -> dict[QualityKey, QualitySketch]: ...
    def answered(self, monitor: Monitor, start_us: int) -> dict[str, int]: ...
    def quality_of(self, monitor: Monitor) -> dict[QualityKey, QualitySketch]: ...
    def save_qualities(self, sketches: Mapping[QualityKey, QualitySketch]) -> None: ...
    def publish_outcomes(self, metric: str, rows: Sequence[OutcomeRow]) -> None: ...
    def forget_labels_before(self, endpoint: str, before_us: int, limit: int) -> int: ...
    def forget_lone_outcomes(self, before: datetime, limit: int) -> int: ...


class AlertStore(Protocol):
    """Alerts and actions, within one transaction."""

    def alert(self, alert_id: str) -> Alert | None: ...
    def active_alert(self, monitor_id: str, kind: AlertKind) -> Alert | None: ...
    def alerts(self, monitor_id: str, limit: int, before: str) -> list[Alert]: ...
    def save_alert(self, alert: Alert, endpoint: str) -> None: ...
    def actions_of(self, alert_ids: Sequence[str]) -> list[Action]: ...
    def actions_of_monitor(self, monitor_id: str) -> list[Action]: ...
    def save_action(self, action: Action, due: datetime) -> None: ...
    def claim_actions(self, now: datetime, lease_until: datetime, limit: int) -> list[Action]: ...


class Store(MonitorStore, LabelStore, AlertStore, Protocol):
    """Everything that one transaction can read and write."""


Transactions = Callable[[], AbstractContextManager[Store]]


class Detectors(Protocol):
    """The detector plugins that are installed."""

    def configured(self, specs: Sequence[DetectorSpec]) -> list[NamedDetector]:
        """Detectors with their settings; raises InvalidArgument naming the field at fault."""
        ...


class TrainingSets(Protocol):
    """Where the rows of a training set come from."""

    def read(self, name: str, max_rows: int) -> ReferenceRows:
        """At most so many rows, evenly spread over the set."""
        ...


class Lineages(Protocol):
    """Where a model version comes from."""

    def training_set(self, version: str) -> str:
        """Name of its training set, empty when its lineage has none; raises NotFound."""
        ...


class Executor(Protocol):
    """Does what one kind of response asks for."""

    def __call__(self, action: Action, alert: Alert, monitor: Monitor) -> str:
        """Do it once however often called with this action, and say what came of it."""
        ...
