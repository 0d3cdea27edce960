"""Wiring of the monitoring service; ``python -m monitor_svc``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta

from modelyard.events.v1 import events_pb2
from modelyard.monitoring.v1 import monitoring_pb2_grpc
from modelyard.plugins.v1 import plugins_pb2_grpc
from pydantic import Field
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from monitor_svc import events, storage
from monitor_svc.api import Dependencies, MonitoringServicer
from monitor_svc.domain.monitors import Response
from monitor_svc.outbound import GuardedClient
from monitor_svc.peers import FeatureServiceTrainingSets, RegistryLineages, Retraining, Rollback
from monitor_svc.plugins import BUILT_IN, InstalledDetectors, Notification
from monitor_svc.service import (
    Evaluation,
    Follower,
    Ingestion,
    Judgement,
    Monitoring,
    Responder,
    Retention,
)
from monitor_svc.service.ports import OutcomeRow, Store
from monitor_svc.storage.tables import consumed, idempotency, outbox
from service_kit.channels import Peers
from service_kit.clock import SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.ledger import AnswerUpkeep
from service_kit.outbox import OutboxRelay
from service_kit.plugin_api import PluginApi
from service_kit.plugins import PluginCatalog
from service_kit.server import Application, run
from service_kit.settings import ServiceSettings
from service_kit.streams import Event, EventStreams, Handler, StreamConsumer

GROUP = "monitoring"
#: Events taken at a time; one of predictions may have thousands of rows.
BATCHES = {"predictions": 64, "outcomes": 500}
#: Seconds that events gather: windows are hours long, and a transaction costs more than its events.
GATHER_S = 0.3


class MonitorSettings(ServiceSettings):
    """Settings of the monitoring service."""

    sink_allowed_hosts: list[str] = Field(default_factory=list)
    """Hosts that alert sinks may reach although their addresses are not public."""
    keep_predictions_days: int = Field(default=120, ge=1, le=3_650)
    """Event time after which a prediction can get no label any more."""


def build(settings: MonitorSettings) -> Application:
    """Put the service together."""
    engine = make_engine(settings.database_url)
    migrate(engine, "monitor_svc")
    clock, peers, catalog = SystemClock(), Peers(settings), PluginCatalog(BUILT_IN)
    streams = EventStreams(settings.redis_url, settings.stream_prefix)
    transactions = storage.transactions(engine)
    detectors = InstalledDetectors(catalog)
    judgement = Judgement(detectors, clock)
    monitoring = Monitoring(detectors, FeatureServiceTrainingSets(peers), judgement, clock)
    notification = Notification(catalog, GuardedClient(settings.sink_allowed_hosts))
    needs = Dependencies(monitoring, notification, transactions, storage.reads(engine), clock)
    responder = Responder(
        transactions,
        {
            Response.NOTIFY: notification,
            Response.EVALUATE: Evaluation(transactions, judgement, clock),
            Response.RETRAIN: Retraining(peers),
            Response.ROLLBACK: Rollback(peers),
        },
        clock,
    )
    follower = Follower(transactions, monitoring, RegistryLineages(peers), clock)
    storage.ACTIONS.tell(responder.stir)
    storage.FOLLOWINGS.tell(follower.stir)
    return Application(
        services=[
            (
                monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server,
                MonitoringServicer(needs),
            ),
            (plugins_pb2_grpc.add_PluginServiceServicer_to_server, PluginApi(catalog)),
        ],
        background=[
            OutboxRelay(engine, outbox, streams),
            AnswerUpkeep(engine, idempotency, clock),
            *consumers(engine, streams, Ingestion(judgement, clock), storage.reads(engine)),
            responder,
            follower,
            Retention(transactions, timedelta(days=settings.keep_predictions_days), clock),
        ],
        pings={"database": lambda: _ping(engine), "redis": streams.ping},
    )


def consumers(
    engine: Engine,
    streams: EventStreams,
    ingestion: Ingestion,
    reads: Callable[[], AbstractContextManager[Store]],
) -> list[StreamConsumer]:
    """The consumers of predictions and outcomes."""

    def anybody_monitors() -> bool:
        with reads() as store:
            return bool(store.monitors(1, ""))

    handlers: dict[str, tuple[Handler, Callable[[], bool] | None]] = {
        # All that endpoints answer is much to read for nobody.
        "predictions": (prediction_handler(ingestion), anybody_monitors),
        "outcomes": (outcome_handler(ingestion), None),
    }
    return [
        StreamConsumer(
            *(engine, consumed, streams, GROUP, stream, handle, BATCHES[stream]),
            gather=GATHER_S,
            wanted=wanted,
        )
        for stream, (handle, wanted) in handlers.items()
    ]


def prediction_handler(ingestion: Ingestion) -> Callable[[Session, Sequence[Event]], None]:
    """Counts the predictions of a batch of events."""

    def handle(session: Session, batch: Sequence[Event]) -> None:
        store = storage.SqlStore(session)
        found = [event.unpack(events_pb2.PredictionBatch) for event in batch]
        watched = ingestion.watched(store, {each.endpoint for each in found})
        rows = [events.prediction_rows(each) for each in found if each.endpoint in watched]
        ingestion.predictions(store, [each for each in rows if each is not None])

    return handle


def outcome_handler(ingestion: Ingestion) -> Callable[[Session, Sequence[Event]], None]:
    """Takes the outcomes of a batch of events, in their order."""

    def handle(session: Session, batch: Sequence[Event]) -> None:
        store = storage.SqlStore(session)
        by_metric: dict[str, list[OutcomeRow]] = {}
        for item in batch:
            message = item.unpack(events_pb2.OutcomeBatch)
            by_metric.setdefault(message.metric, []).extend(events.outcome_rows(message))
        for metric, rows in by_metric.items():
            ingestion.outcomes(store, metric, rows)

    return handle


def _ping(engine: Engine) -> None:
    with reading(engine) as session:
        session.connection()


def main() -> None:
    """Run until told to stop."""
    run("monitoring", build, MonitorSettings)


if __name__ == "__main__":
    main()
