"""Runs the training service: `python -m training_svc`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from sqlalchemy import Engine, text

from service_kit.channels import Peers
from service_kit.clock import Clock, SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.durable import DurableEngine
from service_kit.errors import DomainError
from service_kit.ledger import AnswerUpkeep, Ledger
from service_kit.sandbox import Limits
from service_kit.server import Application, run
from service_kit.settings import ServiceSettings

if TYPE_CHECKING:
    from training_svc.conversion_workflow import Converter
    from training_svc.mlflow_store import MlflowTracking, NoTracking
    from training_svc.ports import Records, Tracking, TrainingJobs
    from training_svc.ray_jobs import RayJobs
    from training_svc.service import Conversions
    from training_svc.steps import Steps
    from training_svc.storage import SqlStore

logger = logging.getLogger(__name__)

WORKFLOW_VERSION = "1"
"""Changed only when runs under way could not go on with the new code."""

CONCURRENT_RUNS, CONCURRENT_CONVERSIONS = 4, 1

TRIAL = Limits(seconds=60.0, memory_bytes=4 << 30)
"""What it may take to load a model file for the first time."""

WARM_UP_AFTER = 3.0
"""Seconds that libraries wait to be loaded, so that the service is ready first."""


class TrainingSettings(ServiceSettings):
    """Settings of the training service."""

    conversion_seconds: float = Field(default=300.0, gt=0, le=3600)
    """Seconds that the conversion of a model file may take."""
    conversion_memory_mib: int = Field(default=4096, ge=256, le=1 << 20)
    """Address space of the process that converts, in MiB."""


def build(settings: TrainingSettings) -> Application:
    """Wires the training service."""
    from modelyard.training.v1 import conversion_pb2_grpc, training_pb2_grpc

    from training_svc import service
    from training_svc.api import ConversionApi, TrainingApi
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

    conversions = make_conversions(settings, durable, store, clock)

    ledger: Ledger[Records] = Ledger(engine, idempotency, SqlRecords)
    api = TrainingApi(ledger, training)
    scheduler = Scheduler(clock, training.scheduled_pipelines, api.run_scheduled)
    return Application(
        services=[
            (training_pb2_grpc.add_TrainingServiceServicer_to_server, api),
            (
                conversion_pb2_grpc.add_ConversionServiceServicer_to_server,
                ConversionApi(ledger, conversions),
            ),
        ],
        background=[
            durable.background,
            Beside(training.recover),
            Beside(conversions.recover),
            scheduler,
            AnswerUpkeep(engine, idempotency, clock),
            Beside(tracking.warm_up, after=WARM_UP_AFTER),
            Beside(jobs.warm_up, after=WARM_UP_AFTER, end=jobs.close),
        ],
        pings={"sql": lambda: _ping(engine), "workflows": durable.ping},
    )


def make_conversions(
    settings: TrainingSettings, durable: DurableEngine, store: SqlStore, clock: Clock
) -> Conversions:
    """Wires conversions of model files."""
    from training_svc.conversion_workflow import ConversionWorkflow
    from training_svc.service import conversions

    durable.queue(conversions.QUEUE, CONCURRENT_CONVERSIONS)
    workflow = ConversionWorkflow(store, make_converter(settings), clock)
    durable.workflow(conversions.WORKFLOW)(workflow)
    return conversions.Conversions(clock, store, durable)


def make_converter(settings: TrainingSettings) -> Converter:
    """Wires what a conversion does."""
    from training_svc.conversion_workflow import Converter
    from training_svc.peers import RegistryClient

    limits = Limits(settings.conversion_seconds, settings.conversion_memory_mib << 20)
    return Converter(RegistryClient(Peers(settings)), limits)


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
    from training_svc.scoring import StoredModels, load_model
    from training_svc.steps import Collecting, Judging, Learning, Releasing, Shaping, Steps

    peers = Peers(settings)
    features, registry = FeatureClient(peers), RegistryClient(peers)
    code, shaping = Path(__file__).parent, Shaping(load_model, quantize)
    stored = StoredModels(TRIAL)
    return Steps(
        collecting=Collecting(features, make_validator),
        learning=Learning(features, registry, jobs, shaping, lambda: provenance(code)),
        judging=Judging(features, registry, load_model, stored, tracking),
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
    run("training", build, TrainingSettings)
