"""Batches of predictions, and a log of them without its stream."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelyard.events.v1 import events_pb2
from sqlalchemy import Engine

from service_kit.clock import FixedClock
from service_kit.database import migrate, transaction
from service_kit.errors import DomainError, Unavailable
from service_kit.ids import uuid7_str
from serving_svc.domain.predictions import LogFile
from serving_svc.prediction_log import PredictionFiles
from serving_svc.service.predictions import Lineage, LogCare, PredictionLog
from serving_svc.storage.prediction_files import SqlPredictionCatalogue
from tests.arrow import TIME, encoded
from tests.serving_svc.world import V1, V2

KEEP = timedelta(days=30)
NOW_US = 1_364_774_400_000_000


def batch(
    ids: Sequence[str],
    *,
    shadow: bool = False,
    columns: Mapping[str, Any] | None = None,
    **given: Any,
) -> events_pb2.PredictionBatch:
    """Predictions with one number, one text and one looked-up number.

    Args:
        columns: In place of those of the same names.
    """
    kinds = events_pb2.PredictionBatch
    rows = len(ids)
    table: dict[str, Any] = {
        "prediction_id": pa.array(ids, pa.string()),
        "unit_id": pa.array(["u"] * rows, pa.string()),
        "event_time": pa.array([NOW_US] * rows, TIME),
        "score": pa.array([n / 8 for n in range(rows)], pa.float64()),
        "latency_us": pa.array([900] * rows, pa.uint32()),
        "input.hour": pa.array(range(rows), pa.float64()),
        "input.carrier": pa.array(["UA"] * rows, pa.string()),
        "input.delays": pa.array(([math.nan] + [2.5] * rows)[:rows], pa.float32()),
        "known.delays": pa.array([NOW_US - 5] * rows, TIME),
    }
    head = {
        "endpoint": "endpoints/late",
        "variant": "v2" if shadow else "v1",
        "model_version": V2 if shadow else V1,
        "role": kinds.ROLE_SHADOW if shadow else kinds.ROLE_PRIMARY,
        "table_generation": 7,
    }
    return kinds(**{**head, **given}, rows=encoded(table | dict(columns or {})))


class Lineages:
    """A registry that knows one snapshot."""

    def lineage(self, version: str) -> Lineage:
        if version != V1:
            raise Unavailable("REGISTRY_AWAY", "down")
        return Lineage((("snapshots/ab", "snapshot"),), (("snapshots/ab", version),))


class Log:
    """A log without its stream."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        migrate(engine, "serving_svc")
        self.engine = engine
        self.folder = folder
        self.clock = FixedClock(datetime.now(UTC))
        self.files = PredictionFiles(folder)
        self.catalogue = SqlPredictionCatalogue(engine)
        self.care = LogCare(self.catalogue, self.files, self.clock, KEEP)
        self.waiting: list[events_pb2.PredictionBatch] = []
        self.use = PredictionLog(
            self.catalogue, self.files, Lineages(), self.clock, self.catch_up, KEEP, self.pause
        )
        self.late: list[events_pb2.PredictionBatch] = []

    def take(self, *batches: events_pb2.PredictionBatch) -> None:
        with transaction(self.engine) as session:
            self.catalogue.add(session, self.files.write(batches))

    def pause(self, _: float) -> None:
        self.waiting, self.late = self.late, []

    def catch_up(self, _: float) -> bool:
        self.take(*self.waiting)
        self.waiting.clear()
        return True

    def listed(self) -> Sequence[LogFile]:
        return self.catalogue.below(10**12)

    def on_disk(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def rows(self) -> Counter[str]:
        """How often each id is in the files that make up the log."""
        return rows_of(self.folder, self.listed())


def rows_of(folder: Path, files: Sequence[LogFile]) -> Counter[str]:
    found: Counter[str] = Counter()
    for file in files:
        path = next(folder.glob(f"*/*/{file.file_id}.parquet"))
        column = pq.read_table(path, columns=["prediction_id"], partitioning=None)["prediction_id"]
        found.update(str(each) for each in column.to_pylist())
    return found


def ids(count: int) -> list[str]:
    return [uuid7_str() for _ in range(count)]


def id_at(day: date, number: int = 0) -> str:
    ms = int(datetime.combine(day, datetime.min.time(), UTC).timestamp() * 1000) + number
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"


def refused(log: Log, prediction_id: str) -> DomainError:
    with pytest.raises(DomainError) as caught:
        log.use.get_prediction(prediction_id)
    return caught.value
