"""Runs the training service: `python -m training_svc`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from service_kit.channels import Peers
from service_kit.clock import SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.durable import DurableEngine
from service_kit.errors import DomainError
from service_kit.ledger import AnswerUpkeep, Ledger
from service_kit.server import Application, run
from service_kit.settings import ServiceSettings

if TYPE_CHECKING:
    from training_svc.mlflow_store import MlflowTracking, NoTracking
    from training_svc.ports import Tracking, TrainingJobs
    from training_svc.ray_jobs import RayJobs
    from training_svc.steps import Steps

logger = logging.getLogger(__name__)

WORKFLOW_VERSION = "1"
"""Changed only when runs under way could not go on with the new code."""

CONCURRENT_RUNS = 4

WARM_UP_AFTER = 3.0
"""Seconds that libraries wait to be loaded, so that the service is ready first."""


def build(settings: ServiceSettings) -> Application:
    """Wires the training service."""
    from modelyard.training.v1 import training_pb2_grpc

    from training_svc import service
    from training_svc.api import TrainingApi
    from training_svc.plugins import check_plugins
    from training_svc.schedules import Scheduler, check_schedule
    from training_svc.storage import SqlRecords, SqlStore, idempotency
    from training_svc.workflow import RunWorkflow

    engine = make_engine(settings.database_url)
    migrate(engine, "training_svc")
    clock, store = SystemClock(), SqlStore(engine)
    durable = DurableEngine(durable_url(settings), "training", WORKFLOW_VERSION)
    durable.queue(service.QUEUE, CONCURRENT_RUNS)
    jobs, tracking = make_tools(settings)
    steps = make_steps(settings, jobs, tracking)
    durable.workflow(service.WORKFLOW)(RunWorkflow(store, steps, clock))
    training = service.Training(clock, store, durable, check_plugins, check_schedule)

    api = TrainingApi(Ledger(engine, idempotency, SqlRecords), training)
    scheduler = Scheduler(clock, training.scheduled_pipelines, api.run_scheduled)
    return Application(
        services=[(training_pb2_grpc.add_TrainingServiceServicer_to_server, api)],
        background=[
            durable.background,
            Beside(training.recover),
            scheduler,
            AnswerUpkeep(engine, idempotency, clock),
            Beside(tracking.warm_up, after=WARM_UP_AFTER),
            Beside(jobs.warm_up, after=WARM_UP_AFTER, end=jobs.close),
        ],
        pings={"sql": lambda: _ping(engine), "workflows": durable.ping},
    )


def make_tools(settings: ServiceSettings) -> tuple[RayJobs, MlflowTracking | NoTracking]:
    """Wires the tools that take their time to get ready."""
    from training_svc.mlflow_store import MlflowTracking, NoTracking
    from training_svc.ray_jobs import RayJobs

    tracking = MlflowTracking(settings.mlflow_url) if settings.mlflow_url else NoTracking()
    return RayJobs(settings.ray_address), tracking


def make_steps(settings: ServiceSettings, jobs: TrainingJobs, tracking: Tracking) -> Steps:
    """Wires the steps of a run with the outside tools."""
    from training_svc.peers import FeatureClient, RegistryClient, ServingClient
    from training_svc.plugins import make_validator
    from training_svc.provenance import provenance
    from training_svc.quantization import quantize
    from training_svc.scoring import load_model
    from training_svc.steps import Collecting, Judging, Learning, Releasing, Shaping, Steps

    peers = Peers(settings)
    features, registry = FeatureClient(peers), RegistryClient(peers)
    code, shaping = Path(__file__).parent, Shaping(load_model, quantize)
    return Steps(
        collecting=Collecting(features, make_validator),
        learning=Learning(features, registry, jobs, shaping, lambda: provenance(code)),
        judging=Judging(features, registry, load_model, tracking),
        releasing=Releasing(registry, ServingClient(peers)),
    )


def durable_url(settings: ServiceSettings) -> str:
    """Database of the workflows: their own file, or a schema of their own on a server."""
    if settings.database_url.startswith("sqlite"):
        return f"sqlite:///{settings.home / 'training_durable.db'}"
    return settings.database_url


class Beside:
    """Work that is done once, in a thread beside everything else.

    Args:
        work: Done after `after` seconds; what goes wrong is logged, and done again when needed.
        end: Called when the service stops.
    """

    def __init__(
        self,
        work: Callable[[], object],
        *,
        after: float = 0.0,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        self._work, self._after, self._end = work, after, end
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begins."""
        threading.Thread(target=self._run, name="beside", daemon=True).start()

    def stop(self) -> None:
        """Ends."""
        self._stopping.set()
        self._end()

    def _run(self) -> None:
        if self._stopping.wait(self._after):
            return
        try:
            self._work()
        except DomainError as error:
            logger.warning("not ready beforehand", extra={"reason": error.reason})
        except Exception:
            logger.exception("work beside the service failed")


def _ping(engine: Engine) -> None:
    with reading(engine) as session:
        session.execute(text("select 1"))


if __name__ == "__main__":
    run("training", build)
