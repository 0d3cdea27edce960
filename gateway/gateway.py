"""The gateway in one piece: wires all parts, starts them, stops them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from importlib import metadata

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from inference import grpc_predict_v2_pb2_grpc
from modelyard.dataplane.v1 import dataplane_pb2_grpc
from modelyard.features.v1 import features_pb2_grpc
from modelyard.serving.v1 import serving_pb2_grpc

from gateway.access.bootstrap import ensure_admin_key
from gateway.access.files import read_hmac_secret
from gateway.access.service import Door, KeyService
from gateway.access.storage import ApiKeyTable
from gateway.dataplane.cache import AnswerCache
from gateway.dataplane.core import DataPlane
from gateway.dataplane.entity_keys import EntityKeyLookup
from gateway.dataplane.events import EventScoringServicer
from gateway.dataplane.features import FeatureReader
from gateway.dataplane.last_answers import LastAnswers
from gateway.dataplane.log import EventLog
from gateway.dataplane.mirror import Mirror
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.prepare import Preparer
from gateway.dataplane.rest import PredictRoute
from gateway.dataplane.scorer import Scorer
from gateway.dataplane.servicer import PredictionServicer
from gateway.dataplane.watch import Watcher
from gateway.front import Front
from gateway.grpc_door import DoorInterceptor
from gateway.hotlane.lane import HotLane, HotRoute
from gateway.inference_v2.rest import INFER_PATH, InferRoute, v2_routes
from gateway.inference_v2.servicer import InferenceServicer
from gateway.openapi import encoded_document, reference_page
from gateway.ops.health import Health
from gateway.ops.pings import blocking_ping, flag_ping, peer_pings
from gateway.pages import Pages
from gateway.routes import Api, build_table
from gateway.settings import GatewaySettings
from gateway.transcoder.contracts import Method, load_contracts, published_methods
from gateway.upstreams import Upstreams
from service_kit import frames, transport
from service_kit.clock import SystemClock
from service_kit.database import make_engine, migrate
from service_kit.interceptors import Identity
from service_kit.methods import scope_of
from service_kit.streams import EventStreams

PREDICT = "/modelyard.serving.v1.PredictionService/Predict"


class Gateway:
    """All parts of the gateway; `app` is its ASGI application."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        files = load_contracts()  # before any channel opens: its retries come from them
        self._engine = make_engine(settings.database_url)
        self._upstreams = Upstreams(settings)
        secret = read_hmac_secret(settings.home)
        table = ApiKeyTable(self._engine)
        self.keys = KeyService(table, secret, SystemClock())
        self.door = Door(table, secret)
        self._streams = EventStreams(settings.redis_url, settings.stream_prefix)
        self.event_log = EventLog(self._streams.append)
        self._wire_data_plane()
        areas = sorted(set(settings.peers) - {settings.service})
        self.health = Health(
            {
                "database": blocking_ping(table.version),
                "streams": blocking_ping(self._streams.ping),
                "data plane": flag_ping(lambda: self.watcher.watching),
                **peer_pings(self._upstreams, areas),
            }
        )
        methods = list(published_methods(files))
        self.app = self._front(methods)

    def _wire_data_plane(self) -> None:
        features = features_pb2_grpc.FeatureServiceStub(self._upstreams.channel("features"))
        serving = dataplane_pb2_grpc.DataPlaneServiceStub(self._upstreams.channel("serving"))
        self._reader = FeatureReader(features.GetOnlineFeatures)
        preparer = Preparer(self._reader, EntityKeyLookup(features))
        self._connect = functools.partial(frames.connect, settings=self.settings)
        self._pool = ReplicaPool(self._connect, frames.hello(self.settings))
        scorer = Scorer(self._pool)
        self.mirror = Mirror(preparer, scorer, self.event_log)
        cache = AnswerCache(self.settings.cache_max_bytes)
        last = LastAnswers(self.settings.last_answers_max_bytes)
        self.plane = DataPlane(scorer, preparer, self.mirror, cache, last)
        self.watcher = Watcher(serving.WatchDataPlane, self.plane, self._pool, "gateway")

    def _front(self, methods: list[Method]) -> Front:
        settings = self.settings
        most = settings.max_predict_bytes
        predict = PredictRoute(self.plane, scope_of(PREDICT), most)
        infer = InferRoute(self.plane, INFER_PATH, most)
        extra = v2_routes(self.plane, infer, version())
        table = build_table(methods, {PREDICT: predict}, extra, self._upstreams, settings)
        pages = Pages(
            self.health,
            self.door,
            functools.cache(lambda: encoded_document(methods, version())),
            functools.cache(lambda: reference_page(methods, version())),
            settings.mlflow_url,
        )
        api = Api(table, self.door, settings)
        front = Front(api, pages.app(), settings.max_concurrent)
        hot: dict[tuple[str, str], HotRoute] = {
            ("/v2/models/", "/infer"): infer,
            ("/v1/endpoints/", ":predict"): predict,
        }
        self.lane = HotLane(self.plane, self._pool, self._reader, self.door, front, hot)
        return front

    async def start(self) -> None:
        """Start everything but the ports."""
        await asyncio.to_thread(self._prepare_database)
        await self.door.start()
        self.event_log.start()
        self.watcher.start()
        if self.settings.features_frames:
            hello = frames.hello(self.settings)
            self._reader.connect(self.settings.features_frames, self._connect, hello)
        await self.health.start()

    async def stop(self) -> None:
        """Stop everything; what was logged is sent off."""
        await self.watcher.stop()
        await self.health.stop()
        await self.mirror.close()
        await self.event_log.stop()
        await self._reader.close()
        await self._pool.close()
        await self.door.stop()
        await self._upstreams.close()
        self._streams.close()
        self._engine.dispose()

    async def serve_grpc(self) -> tuple[grpc.aio.Server, str]:
        """Open the gRPC port; returns the server and its address.

        Raises:
            UnsafeAddressError: For an address beyond this machine without TLS.
            OSError: When the address cannot be bound.
        """
        address = self.settings.grpc_listen
        transport.require_safe(address, self.settings)
        server = grpc.aio.server(
            interceptors=(DoorInterceptor(self.door, Identity.of(self.settings)),),
            options=(*transport.OPTIONS, ("grpc.so_reuseport", 0)),
            maximum_concurrent_rpcs=self.settings.max_concurrent,
        )
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            InferenceServicer(self.plane, self.health.serving, version()), server
        )
        serving_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionServicer(self.plane), server
        )
        dataplane_pb2_grpc.add_EventScoringServiceServicer_to_server(
            EventScoringServicer(self.plane), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
        port = _bound(lambda: self._add_port(server, address), address)
        await server.start()
        host, colon, _ = address.rpartition(":")
        return server, address if transport.is_unix(address) else f"{host}{colon}{port}"

    def _add_port(self, server: grpc.aio.Server, address: str) -> int:
        credentials = transport.server_credentials(self.settings)
        if credentials is None or transport.is_unix(address):
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))

    def _prepare_database(self) -> None:
        migrate(self._engine, "gateway")
        ensure_admin_key(self.keys, self.settings.home)


def version() -> str:
    """The version of this distribution."""
    try:
        return metadata.version("modelyard")
    except metadata.PackageNotFoundError:
        return "0"


def _bound(add: Callable[[], int], address: str) -> int:
    try:
        port = add()
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    if port == 0:
        raise OSError(f"cannot listen on {address}")
    return port
