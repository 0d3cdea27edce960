"""Runs the serving service: `python -m serving_svc`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from service_kit.channels import Peers
from service_kit.clock import Clock, SystemClock
from service_kit.database import make_engine, migrate, reading
from service_kit.durable import DurableEngine
from service_kit.ledger import AnswerUpkeep
from service_kit.metrics import REGISTRY
from service_kit.outbox import OutboxRelay
from service_kit.server import Application, Service, run
from service_kit.streams import EventStreams, StreamConsumer
from serving_svc.settings import ServingSettings

if TYPE_CHECKING:
    from serving_svc.domain import ModelVersion
    from serving_svc.replicas import ReplicaSettings
    from serving_svc.service import DataPlane, Registry, RolloutService, ServingService, Store
    from serving_svc.service.admission import AdmittingRegistry
    from serving_svc.service.prediction_intake import PredictionIntake
    from serving_svc.service.scoring_supervisor import ScoringSupervisor

WORKFLOW_VERSION = "1"
"""Changed only when workflows under way could not go on with the new code."""
BATCHES_AT_ONCE = 1
"""Batch predictions of one process that are under way together; the others wait."""
PREDICTION_STREAM, PREDICTION_GROUP = "predictions", "serving-log"
PREDICTION_BATCH = 64
"""Events, of up to some hundred rows each, that are taken into the log at a time."""


def build(settings: ServingSettings) -> Application:
    """Wires the serving service."""
    from modelyard.dataplane.v1 import dataplane_pb2_grpc
    from modelyard.serving.v1 import serving_pb2_grpc

    from serving_svc import service
    from serving_svc.api import DataPlaneApi, ServingApi
    from serving_svc.replicas import RayReplicas
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
    wake = replicas.connected = reconciler.notify
    durable = DurableEngine(settings.durable_url, "serving", WORKFLOW_VERSION)
    record = (store, registry)
    endpoints, rollouts = releases(settings, record, dataplane, durable, peers, wake)
    streams = EventStreams(settings.redis_url, settings.stream_prefix)
    relay = OutboxRelay(engine, OUTBOX, streams)
    intake, predictions = prediction_log(settings, engine, streams, peers, store)
    batches, resume_batches = batch_predictions(settings, engine, peers, durable, record)
    scoring, scorers = stream_scorers(settings, engine, peers)
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
            predictions,
            batches,
            scorers,
        ],
        background=[
            replicas,
            reconciler,
            service.Autoscaler(store, dataplane, settings.scaling, wake),
            relay,
            AnswerUpkeep(engine, IDEMPOTENCY, clock),
            intake,
            scoring,
            durable.background,
            Recovery(endpoints.resume, rollouts.resume, resume_batches),
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


def releases(
    settings: ServingSettings,
    record: tuple[Store, Registry],
    dataplane: DataPlane,
    durable: DurableEngine,
    peers: Peers,
    wake: Callable[[], None],
) -> tuple[ServingService, RolloutService]:
    """Wires endpoints and rollouts: their use cases and their workflows."""
    from serving_svc import service
    from serving_svc.peers import GrpcExperiments
    from serving_svc.service.deploys import Loader
    from serving_svc.service.endpoints import DEPLOY_WORKFLOW
    from serving_svc.service.rollouts import ROLLOUT_WORKFLOW

    clock = SystemClock()
    loader = Loader(record[0], dataplane, settings.load_timeout_s)
    deploys = service.DeployWorkflow(*record, dataplane, loader, clock, wake)
    judge = GrpcExperiments(peers)
    ramp = service.RolloutWorkflow(*record, judge, dataplane, loader, clock, wake)
    durable.workflow(DEPLOY_WORKFLOW)(deploys.run)
    durable.workflow(ROLLOUT_WORKFLOW)(ramp.run)
    return (
        service.ServingService(*record, dataplane, durable, clock, wake),
        service.RolloutService(*record, dataplane, durable, clock, wake),
    )


def prediction_log(
    settings: ServingSettings, engine: Engine, streams: EventStreams, peers: Peers, store: Store
) -> tuple[PredictionIntake, Service]:
    """Wires the prediction log: what fills it and what reads it."""
    from modelyard.serving.v1 import predictions_pb2_grpc

    from serving_svc.api import PredictionLogApi
    from serving_svc.lineage import GrpcLineages
    from serving_svc.prediction_log import PairReader, PredictionFiles, PredictionRecorder
    from serving_svc.service.prediction_intake import PredictionIntake
    from serving_svc.service.predictions import LogCare, PredictionLog
    from serving_svc.service.shadows import ShadowService
    from serving_svc.storage.prediction_files import SqlPredictionCatalogue
    from serving_svc.storage.tables import CONSUMED

    clock, keep = SystemClock(), timedelta(days=settings.prediction_retention_days)
    files, catalogue = PredictionFiles(settings.prediction_folder), SqlPredictionCatalogue(engine)
    consumer = StreamConsumer(
        engine,
        CONSUMED,
        streams,
        PREDICTION_GROUP,
        PREDICTION_STREAM,
        PredictionRecorder(files, catalogue).handle,
        batch=PREDICTION_BATCH,
        claim_after=timedelta(seconds=20),
        dedupe_for=timedelta(days=1),
        trim=True,
    )
    care = LogCare(catalogue, files, clock, keep)
    intake = PredictionIntake(consumer, care, settings.prediction_log_interval_s, PREDICTION_BATCH)
    lineages = GrpcLineages(peers)
    log = PredictionLog(catalogue, files, lineages, clock, intake.catch_up, keep)
    pairs = PairReader(settings.prediction_folder)
    shadows = ShadowService(store, catalogue, pairs, clock, intake.catch_up)
    add = predictions_pb2_grpc.add_PredictionLogServiceServicer_to_server
    return intake, (add, PredictionLogApi(log, shadows))


def batch_predictions(
    settings: ServingSettings,
    engine: Engine,
    peers: Peers,
    durable: DurableEngine,
    record: tuple[Store, Registry],
) -> tuple[Service, Callable[[], None]]:
    """Wires batch predictions: their use cases and their workflow, and how they go on."""
    from modelyard.serving.v1 import batch_pb2_grpc

    from serving_svc.api import BatchPredictionApi
    from serving_svc.api.batches_api import lookups_of
    from serving_svc.batch.results import Results
    from serving_svc.batch.runner import RayShardRunner
    from serving_svc.batch.sources import Sources
    from serving_svc.batch.work import BatchWork
    from serving_svc.service import batches as use
    from serving_svc.storage.batches import SqlBatches

    kept, clock = SqlBatches(engine), SystemClock()
    work = BatchWork(
        settings.batch_folder,
        Sources(peers),
        RayShardRunner(settings.ray_address or "auto", settings.batch_workers, settings.batch_cpus),
        Results(peers),
        lambda version: worker_config(settings, version),
        settings.batch_shard_rows,
    )
    workflow = use.BatchWorkflow(kept, record[1], work, clock)
    durable.queue(use.BATCH_QUEUE, BATCHES_AT_ONCE)
    durable.workflow(use.BATCH_WORKFLOW)(workflow.run)
    batches = use.BatchService(kept, *record, durable, lookups_of, clock)
    add = batch_pb2_grpc.add_BatchPredictionServiceServicer_to_server
    return (add, BatchPredictionApi(batches)), batches.resume


def stream_scorers(
    settings: ServingSettings, engine: Engine, peers: Peers
) -> tuple[ScoringSupervisor, Service]:
    """Wires stream scorers: what scores, and their use cases."""
    from modelyard.serving.v1 import stream_pb2_grpc

    from serving_svc.api import StreamScorerApi
    from serving_svc.service.scorers import ScorerService
    from serving_svc.service.scoring_supervisor import ScoringSupervisor
    from serving_svc.storage.scorers import SqlScorers
    from serving_svc.stream import GatewayInference, RedisScorerStreams

    clock, claim_after = SystemClock(), timedelta(seconds=settings.stream_claim_after_s)
    kept = SqlScorers(engine, clock)
    streams = RedisScorerStreams(settings.redis_url, settings.stream_prefix, claim_after)
    # Who waits for an answer keeps its events: it has given up before others take them over.
    inference = GatewayInference(peers, settings.stream_claim_after_s / 2)
    supervisor = ScoringSupervisor(kept, streams, inference)
    use = ScorerService(kept, streams, clock, supervisor.notify)
    add = stream_pb2_grpc.add_StreamScorerServiceServicer_to_server
    return supervisor, (add, StreamScorerApi(use, streams.names))


def worker_config(settings: ServingSettings, version: ModelVersion) -> dict[str, Any]:
    """What a worker of a batch prediction is told: what replicas are, and where features are."""
    told = replica_settings(settings)
    peers = {**told.peers, "features": settings.peers.get("features", "")}
    return replace(told, peers=peers).config_of(version).to_json()


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
