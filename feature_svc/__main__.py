"""Runs the feature service: `python -m feature_svc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from feature_svc.settings import FeatureSettings
from service_kit.clock import Clock, SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.ledger import AnswerUpkeep, Ledger
from service_kit.server import Application, run

if TYPE_CHECKING:
    from feature_svc.domain import Definitions
    from feature_svc.frame_port import FramePort
    from feature_svc.service import CurrentDefinitions, OnlineReads


def build(settings: FeatureSettings, clock: Clock | None = None) -> Application:
    """Wires the feature service."""
    from modelyard.features.v1 import features_pb2_grpc

    from feature_svc.api import FeatureApi
    from feature_svc.domain.online.layout import project_name
    from feature_svc.history import ParquetHistory
    from feature_svc.loading import LazyFeast
    from feature_svc.online_store import RedisOnlineStore
    from feature_svc.service import (
        Catalog,
        CurrentDefinitions,
        FrozenTables,
        Histories,
        OnlineFeatures,
        OnlineReads,
        RememberedReplies,
    )
    from feature_svc.storage import SqlRecords, idempotency
    from feature_svc.upkeep import Upkeep

    clock = clock or SystemClock()
    engine = make_engine(settings.database_url)
    migrate(engine, "feature_svc")
    folder = settings.home / "features"
    store = ParquetHistory(folder)
    project = project_name(settings.stream_prefix)
    online = RedisOnlineStore(settings.redis_url, project)
    feast = LazyFeast(folder / "feast", project, settings.redis_url)
    histories = Histories(store)
    current = CurrentDefinitions(lambda known: _load(engine, known))
    memory = RememberedReplies(settings.remembered_bytes, settings.remembered_s)
    api = FeatureApi(
        Ledger(engine, idempotency, SqlRecords),
        Catalog(),
        current,
        histories,
        FrozenTables(clock, histories, store),
        OnlineFeatures(clock, current, online, histories, feast, memory),
        feast.hurry,
    )
    return Application(
        services=[(features_pb2_grpc.add_FeatureServiceServicer_to_server, api)],
        background=[
            feast,
            *_ports(settings, OnlineReads(clock, current, online.held(), memory), current),
            Upkeep(engine, store),
            AnswerUpkeep(engine, idempotency, clock),
        ],
        pings={"sql": lambda: _ping(engine), "redis": online.ping},
    )


def _ports(
    settings: FeatureSettings, reads: OnlineReads, current: CurrentDefinitions
) -> list[FramePort]:
    if not settings.frames_listen:
        return []
    from feature_svc.frame_port import FramePort

    return [FramePort(settings, settings.frames_listen, reads, current)]


def _load(engine: Engine, known: int | None) -> tuple[int, Definitions | None]:
    from feature_svc.storage import SqlRecords

    with reading(engine) as session:
        records = SqlRecords(session)
        generation = records.generation()
        return generation, None if generation == known else records.definitions()


def _ping(engine: Engine) -> None:
    with reading(engine) as session:
        session.execute(text("select 1"))


if __name__ == "__main__":
    run("features", build, FeatureSettings)
