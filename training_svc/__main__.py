"""Runs the training service: `python -m training_svc`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from service_kit.channels import Peers
from service_kit.clock import SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.durable import DurableEngine
from service_kit.server import Application, run
from service_kit.settings import ServiceSettings

if TYPE_CHECKING:
    from training_svc.service import Training
    from training_svc.steps import Steps

WORKFLOW_VERSION = "1"
"""Changed only when runs under way could not go on with the new code."""

CONCURRENT_RUNS = 4


def build(settings: ServiceSettings) -> Application:
    """Wires the training service."""
    from modelyard.training.v1 import training_pb2_grpc

    from training_svc import service
    from training_svc.api import TrainingApi
    from training_svc.plugins import check_plugins
    from training_svc.schedules import Scheduler, check_schedule
    from training_svc.storage import SqlStore
    from training_svc.workflow import RunWorkflow

    engine = make_engine(settings.database_url)
    migrate(engine, "training_svc")
    clock, store = SystemClock(), SqlStore(engine)
    durable = DurableEngine(durable_url(settings), "training", WORKFLOW_VERSION)
    durable.queue(service.QUEUE, CONCURRENT_RUNS)
    durable.workflow(service.WORKFLOW)(RunWorkflow(store, make_steps(settings), clock))
    training = service.Training(clock, store, durable, check_plugins, check_schedule)

    api = TrainingApi(engine, training)
    scheduler = Scheduler(clock, training.all_pipelines, api.run_scheduled)
    return Application(
        services=[(training_pb2_grpc.add_TrainingServiceServicer_to_server, api)],
        background=[durable.background, Recovery(training), scheduler],
        pings={"sql": lambda: _ping(engine), "workflows": durable.ping},
    )


def make_steps(settings: ServiceSettings) -> Steps:
    """Wires the steps of a run with the outside tools."""
    from training_svc.mlflow_store import MlflowTracking, NoTracking
    from training_svc.peers import FeatureClient, RegistryClient, ServingClient
    from training_svc.plugins import make_validator
    from training_svc.provenance import provenance
    from training_svc.ray_jobs import RayJobs
    from training_svc.scoring import RuntimeScorer
    from training_svc.steps import Steps

    peers = Peers(settings)
    tracking = MlflowTracking(settings.mlflow_url) if settings.mlflow_url else NoTracking()
    return Steps(
        features=FeatureClient(peers),
        registry=RegistryClient(peers),
        serving=ServingClient(peers),
        jobs=RayJobs(settings.ray_address),
        scorer=RuntimeScorer(),
        tracking=tracking,
        provenance=provenance(Path(__file__).parent),
        make_validator=make_validator,
    )


def durable_url(settings: ServiceSettings) -> str:
    """Database of the workflows: their own file, or a schema of their own on a server."""
    if settings.database_url.startswith("sqlite"):
        return f"sqlite:///{settings.home / 'training_durable.db'}"
    return settings.database_url


class Recovery:
    """Starts what was recorded but not yet started when the process last ended."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def start(self) -> None:
        """Starts it, beside everything else."""
        threading.Thread(target=self._training.start_recorded, daemon=True).start()

    def stop(self) -> None:
        """Nothing to stop."""


def _ping(engine: Engine) -> None:
    with reading(engine) as session:
        session.execute(text("select 1"))


if __name__ == "__main__":
    run("training", build)
