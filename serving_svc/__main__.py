"""Runs the serving service: `python -m serving_svc`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Engine, text

from service_kit.channels import Peers
from service_kit.clock import Clock, SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.durable import DurableEngine
from service_kit.ledger import AnswerUpkeep
from service_kit.metrics import REGISTRY
from service_kit.outbox import OutboxRelay
from service_kit.server import Application, run
from service_kit.streams import EventStreams
from serving_svc.settings import ServingSettings

if TYPE_CHECKING:
    from serving_svc.replicas import ReplicaSettings
    from serving_svc.service import DataPlane
    from serving_svc.service.admission import AdmittingRegistry
    from serving_svc.service.ports import Store

WORKFLOW_VERSION = "1"
"""Changed only when workflows under way could not go on with the new code."""


def build(settings: ServingSettings) -> Application:
    """Wires the serving service."""
    from modelyard.dataplane.v1 import dataplane_pb2_grpc
    from modelyard.serving.v1 import serving_pb2_grpc

    from serving_svc import service
    from serving_svc.api import DataPlaneApi, ServingApi
    from serving_svc.peers import GrpcExperiments
    from serving_svc.replicas import RayReplicas
    from serving_svc.service.deploys import Loader
    from serving_svc.service.endpoints import DEPLOY_WORKFLOW
    from serving_svc.service.rollouts import ROLLOUT_WORKFLOW
    from serving_svc.storage import SqlStore
    from serving_svc.storage.tables import IDEMPOTENCY, OUTBOX

    engine = make_engine(settings.database_url)
    migrate(engine, "serving_svc")
    clock, peers = SystemClock(), Peers(settings)
    store = SqlStore(engine, clock)
    registry = make_registry(settings, peers)
    replicas = RayReplicas(replica_settings(settings))
    reconciler = service.Reconciler(store, replicas)
    dataplane = make_dataplane(settings, store, clock)
    loader = Loader(store, dataplane, settings.load_timeout_s)
    wake = reconciler.notify

    durable = DurableEngine(settings.durable_url, "serving", WORKFLOW_VERSION)
    deploys = service.DeployWorkflow(store, registry, dataplane, loader, clock, wake)
    ramp = service.RolloutWorkflow(
        store, registry, GrpcExperiments(peers), dataplane, loader, clock, wake
    )
    durable.workflow(DEPLOY_WORKFLOW)(deploys.run)
    durable.workflow(ROLLOUT_WORKFLOW)(ramp.run)
    endpoints = service.ServingService(store, registry, dataplane, durable, clock, wake)
    rollouts = service.RolloutService(store, registry, dataplane, durable, clock, wake)

    relay = OutboxRelay(engine, OUTBOX, EventStreams(settings.redis_url, settings.stream_prefix))
    return Application(
        services=[
            (
                serving_pb2_grpc.add_ServingServiceServicer_to_server,
                ServingApi(endpoints, rollouts),
            ),
            (
                dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server,
                DataPlaneApi(dataplane, clock),
            ),
        ],
        background=[
            replicas,
            reconciler,
            service.Autoscaler(store, dataplane, settings.scaling, wake),
            relay,
            AnswerUpkeep(engine, IDEMPOTENCY, clock),
            durable.background,
            Recovery(endpoints.resume, rollouts.resume),
            dataplane,
        ],
        pings={"sql": lambda: _ping(engine), "workflows": durable.ping, "ray": replicas.ping},
        drain=dataplane.stop,
    )


def make_dataplane(settings: ServingSettings, store: Store, clock: Clock) -> DataPlane:
    """Wires the state of the data plane, with what `/metrics` says of it."""
    from serving_svc.replica_metrics import ReplicaCollector
    from serving_svc.service import DataPlane

    dataplane = DataPlane(store, clock, settings.report_interval)
    REGISTRY.register(ReplicaCollector(dataplane.replicas))
    return dataplane


def make_registry(settings: ServingSettings, peers: Peers) -> AdmittingRegistry:
    """Wires the record of models with what can be loaded here."""
    from serving_svc.peers import GrpcRegistry
    from serving_svc.runtimes import RuntimeCatalog
    from serving_svc.service.admission import AdmittingRegistry

    return AdmittingRegistry(GrpcRegistry(peers), RuntimeCatalog(), settings.code_models)


def replica_settings(settings: ServingSettings) -> ReplicaSettings:
    """What replicas are told: where the registry and this service are, and no secret."""
    from serving_svc.replicas import ReplicaSettings

    tls = {name: getattr(settings, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    return ReplicaSettings(
        ray_address=settings.ray_address or "auto",
        home=str(settings.home),
        peers={area: settings.peers.get(area, "") for area in ("registry", "serving")},
        host=settings.replica_host,
        cpus=settings.replica_cpus,
        code_models=settings.code_models,
        runtimes=settings.runtimes,
        gpus=settings.replica_gpus,
        tls={name: str(path) for name, path in tls.items() if path is not None},
    )


class Recovery:
    """Starts what was recorded but not yet started when the process last ended."""

    def __init__(self, *resume: Callable[[], None]) -> None:
        self._resume = resume

    def start(self) -> None:
        """Starts it, beside everything else."""
        threading.Thread(target=self._run, name="recovery", daemon=True).start()

    def stop(self) -> None:
        """Nothing to stop."""

    def _run(self) -> None:
        for resume in self._resume:
            resume()


def _ping(engine: Engine) -> None:
    with reading(engine) as session:
        session.execute(text("select 1"))


if __name__ == "__main__":
    run("serving", build, ServingSettings)
