"""Runs the experiments: `python -m experiment_svc`."""

from __future__ import annotations

from service_kit.server import Application, run
from service_kit.settings import ServiceSettings

GROUP = "experiments"
#: Seconds that events gather: a transaction costs more than its events.
GATHER_S = 0.3


def build(settings: ServiceSettings) -> Application:
    """Wires the experiments."""
    from modelyard.experiments.v1 import experiments_pb2_grpc
    from sqlalchemy import text

    from experiment_svc.api import ExperimentApi
    from experiment_svc.events import Intake
    from experiment_svc.service import Experiments, Ingestion, Retention
    from experiment_svc.storage import SqlRecords, consumed, idempotency
    from experiment_svc.upkeep import Upkeep
    from service_kit.clock import SystemClock
    from service_kit.database import make_engine, migrate, reading
    from service_kit.ledger import AnswerUpkeep, Ledger
    from service_kit.streams import EventStreams, StreamConsumer

    engine = make_engine(settings.database_url)
    migrate(engine, "experiment_svc")
    clock = SystemClock()
    streams = EventStreams(settings.redis_url, settings.stream_prefix)
    intake = Intake(Ingestion(clock))

    def ping() -> None:
        with reading(engine) as session:
            session.execute(text("select 1"))

    return Application(
        services=[
            (
                experiments_pb2_grpc.add_ExperimentServiceServicer_to_server,
                ExperimentApi(Ledger(engine, idempotency, SqlRecords), Experiments(clock)),
            )
        ],
        background=[
            *(
                StreamConsumer(engine, consumed, streams, GROUP, stream, handle, gather=GATHER_S)
                for stream, handle in (
                    ("exposures", intake.exposures),
                    ("outcomes", intake.outcomes),
                )
            ),
            Upkeep(engine, Retention(clock)),
            AnswerUpkeep(engine, idempotency, clock),
        ],
        pings={"sql": ping, "streams": streams.ping},
    )


if __name__ == "__main__":
    run("experiments", build)
