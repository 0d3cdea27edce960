"""Runs the registry: `python -m registry_svc`."""

from __future__ import annotations

from sqlalchemy import Engine, text

from service_kit.clock import SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.ledger import AnswerUpkeep, Ledger
from service_kit.outbox import OutboxRelay
from service_kit.server import Application, Background, run
from service_kit.settings import ServiceSettings
from service_kit.streams import EventStreams


def build(settings: ServiceSettings) -> Application:
    """Wires the registry."""
    from modelyard.registry.v1 import registry_pb2_grpc

    from registry_svc.api import RegistryApi
    from registry_svc.blobs import FileBlobs
    from registry_svc.service import Registry
    from registry_svc.storage import SqlRecords, all_models, idempotency, outbox

    engine = make_engine(settings.database_url)
    migrate(engine, "registry_svc")
    streams = EventStreams(settings.redis_url, settings.stream_prefix)
    clock = SystemClock()
    background: list[Background] = [
        OutboxRelay(engine, outbox, streams),
        AnswerUpkeep(engine, idempotency, clock),
    ]
    changed = _nothing
    if settings.mlflow_url:
        from registry_svc.mlflow_store import MlflowMirror, MlflowRegistry

        mirror = MlflowMirror(MlflowRegistry(settings.mlflow_url), lambda: all_models(engine))
        background.append(mirror)
        changed = mirror.notify
    registry = Registry(clock, FileBlobs(settings.home / "artifacts"))
    api = RegistryApi(Ledger(engine, idempotency, SqlRecords), registry, changed)
    return Application(
        services=[(registry_pb2_grpc.add_RegistryServiceServicer_to_server, api)],
        background=background,
        pings={"sql": lambda: _ping(engine)},
    )


def _nothing() -> None:
    """No mirror is kept."""


def _ping(engine: Engine) -> None:
    with reading(engine) as session:
        session.execute(text("select 1"))


if __name__ == "__main__":
    run("registry", build)
