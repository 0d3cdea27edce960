"""A monitoring service on both databases, with fakes for its peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import Engine

from monitor_svc import storage
from monitor_svc.domain.alerts import Action, Alert
from monitor_svc.domain.monitors import Monitor, Policy, Response, Severity
from monitor_svc.domain.profiles import Labels, Numbers, Values
from monitor_svc.plugins import BUILT_IN, InstalledDetectors
from monitor_svc.service import Evaluation, Follower, Ingestion, Judgement, Monitoring, Responder
from monitor_svc.service.ports import PredictionRows, ReferenceRows, Transactions
from service_kit.clock import FixedClock
from service_kit.database import migrate
from service_kit.plugins import PluginCatalog

HOUR, DAY = 3_600_000_000, 86_400_000_000
#: A Monday.
START = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * 1_000_000
VERSION = "models/late/versions/1"


@dataclass
class FakeTrainingSets:
    """Training sets by name."""

    sets: dict[str, ReferenceRows] = field(default_factory=dict)

    def read(self, name: str, max_rows: int) -> ReferenceRows:
        return self.sets[name]


@dataclass
class FakeLineages:
    """Training sets by model version, after as many failures as told."""

    sets: dict[str, str] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    asked: int = 0

    def training_set(self, version: str) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.sets[version]


@dataclass
class FakeExecutor:
    """Remembers what it was asked, by request id, and fails as told."""

    failures: list[Exception] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __call__(self, action: Action, alert: Alert, monitor: Monitor) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.asked.append(action.request_id)
        return f"did {action.policy.response.value}"


@dataclass
class House:
    """The service without its network."""

    engine: Engine
    transactions: Transactions
    clock: FixedClock
    training_sets: FakeTrainingSets
    judgement: Judgement
    monitoring: Monitoring
    ingestion: Ingestion
    responder: Responder
    executors: dict[Response, FakeExecutor]
    lineages: FakeLineages
    follower: Follower

    def predict(self, *batches: PredictionRows) -> None:
        with self.transactions() as store:
            self.ingestion.predictions(store, batches)

    def create(self, monitor: Monitor, rows: ReferenceRows | None) -> Monitor:
        reference = self.monitoring.prepare_reference(monitor, rows)
        with self.transactions() as store:
            return self.monitoring.create(store, monitor, reference)

    def monitor(self) -> Monitor:
        with self.transactions() as store:
            return self.monitoring.get(store, "drift")

    def alerts(self) -> list[Alert]:
        with self.transactions() as store:
            return store.alerts("", 100, "")

    def actions(self) -> list[Action]:
        with self.transactions() as store:
            return store.actions_of([alert.id for alert in store.alerts("", 100, "")])


@pytest.fixture
def house(sql_engine: Engine) -> Iterator[House]:
    migrate(sql_engine, "monitor_svc")
    clock = FixedClock(datetime(2026, 6, 1, tzinfo=UTC))
    transactions = storage.transactions(sql_engine)
    detectors = InstalledDetectors(PluginCatalog(BUILT_IN))
    judgement = Judgement(detectors, clock)
    sets = FakeTrainingSets()
    executors = {r: FakeExecutor() for r in Response if r is not Response.EVALUATE}
    evaluation = Evaluation(transactions, judgement, clock)
    monitoring = Monitoring(detectors, sets, judgement, clock)
    lineages = FakeLineages()
    return House(
        sql_engine, transactions, clock, sets, judgement,
        monitoring, Ingestion(judgement, clock),
        Responder(transactions, {**executors, Response.EVALUATE: evaluation}, clock), executors,
        lineages, Follower(transactions, monitoring, lineages, clock),
    )  # fmt: skip


def reference_rows(count: int = 5_000, seed: int = 0) -> ReferenceRows:
    rng = np.random.default_rng(seed)
    columns: dict[str, Values] = {
        "temp": Numbers(rng.normal(size=count)),
        "hour": Numbers(rng.integers(0, 24, size=count).astype(np.float64)),
        "carrier": Labels([f"c{i}" for i in rng.integers(0, 8, size=count)]),
    }
    return ReferenceRows(columns, count)


def predictions(
    count: int, start_us: int, *, shift: float = 0.0, seed: int = 1, span: int = DAY,
    version: str = VERSION, shadow: bool = False,
) -> PredictionRows:  # fmt: skip
    rng = np.random.default_rng(seed)
    columns: dict[str, Values] = {
        "temp": Numbers(rng.normal(shift, 1, size=count)),
        "hour": Numbers(rng.integers(0, 24, size=count).astype(np.float64)),
        "carrier": Labels([f"c{i}" for i in rng.integers(0, 8, size=count)]),
    }
    times = start_us + np.sort(rng.integers(0, span, size=count))
    ids = [f"{start_us}-{seed}-{i}" for i in range(count)]
    return PredictionRows(
        "endpoints/late", version, shadow, ids, times, rng.beta(2, 5, size=count), columns
    )


def monitor(**changes: object) -> Monitor:
    values: dict[str, object] = {
        "id": "drift",
        "endpoint": "endpoints/late",
        "policies": (
            Policy(Severity.WARNING, Response.NOTIFY),
            Policy(Severity.CRITICAL, Response.RETRAIN, pipeline="pipelines/late"),
        ),
    }
    return Monitor(**{**values, **changes})  # type: ignore[arg-type]
