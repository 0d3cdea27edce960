"""A whole gateway in this process, with fakes of everything behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvloop
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from modelyard.events.v1 import events_pb2
from modelyard.features.v1 import features_pb2_grpc
from modelyard.registry.v1 import registry_pb2_grpc

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from service_kit import telemetry
from service_kit.frame_server import FrameServer
from service_kit.security import ensure_suite_keys
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from service_kit.streams import Event
from tests.arrow import decoded
from tests.gateway import tables
from tests.gateway.fakes import FakeDataPlane, FakeFeatures, FakeRegistry, FakeReplica
from tests.gateway.feature_fakes import frame_server
from tests.gateway.lane import Two

T = TypeVar("T")


@dataclass
class Predictions:
    """An event of the log of predictions: what its rows share, and their columns."""

    batch: events_pb2.PredictionBatch
    columns: dict[str, list[Any]]

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


class Suite:
    """The gateway and all that a test may want of it."""

    def __init__(self, home: Path, runner: asyncio.Runner) -> None:
        self.registry, self.features = FakeRegistry(), FakeFeatures()
        self.data_plane = FakeDataPlane()
        self.events: list[tuple[str, Event]] = []
        self.streams_away = False
        self.revision = 0
        self.home = home
        self.runner = runner
        self.replicas: list[FakeReplica] = []
        ensure_suite_keys(home)
        self.server = ServiceServer(
            ServiceSettings(service="registry", home=home),
            [
                (registry_pb2_grpc.add_RegistryServiceServicer_to_server, self.registry),
                (features_pb2_grpc.add_FeatureServiceServicer_to_server, self.features),
                (dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server, self.data_plane),
            ],
        )
        address = self.server.start()
        self.frames = self._frame_server("127.0.0.1:0")
        areas = ("registry", "features", "serving")
        self.settings = GatewaySettings(
            service="gateway",
            home=home,
            peers={**dict.fromkeys(areas, address), "gateway": "127.0.0.1:1"},
            redis_url="redis://127.0.0.1:1/0",
            features_frames=self.frames.start(),
            max_body_bytes=100_000,
            max_predict_bytes=50_000,
            max_upload_bytes=5_000_000,
            mlflow_url="http://127.0.0.1:5005",
        )
        telemetry.configure(self.settings)
        self.run(self._start())
        self.until(self.in_frames)
        self.key = (home / "keys" / "admin.key").read_text().strip()

    def _frame_server(self, address: str) -> FrameServer:
        settings = ServiceSettings(service="features", home=self.home)
        return frame_server(settings, self.features.read, address)

    def in_frames(self) -> bool:
        """Whether the gateway reads features in frames now."""
        link = self.gateway._reader._link
        return link is not None and link.up

    def restart_frames(self) -> None:
        """Open the port for frames anew, after it was stopped."""
        self.frames = self._frame_server(self.settings.features_frames)
        self.frames.start()

    async def _start(self) -> None:
        self.gateway = Gateway(self.settings)
        self.gateway.event_log._append = self._append
        await self.gateway.start()
        self.rpc, self.grpc_address = await self.gateway.serve_grpc()
        transport = httpx.ASGITransport(app=self.gateway.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    def _append(self, stream: str, events: Any) -> None:
        if self.streams_away:
            from service_kit.errors import Unavailable

            raise Unavailable("STREAM_UNAVAILABLE", "away")
        self.events.extend((stream, event) for event in events)

    def run(self, work: Awaitable[T]) -> T:
        async def whole() -> T:
            return await work

        return self.runner.run(whole())

    def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        async def wait() -> None:
            end = time.monotonic() + seconds
            while not condition():
                assert time.monotonic() < end, "it did not come to pass"
                await asyncio.sleep(0.005)

        self.run(wait())

    def call(
        self, method: str, path: str, json: Any = None, *, key: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key if key is None else key}"}
        headers |= more.pop("headers", {})
        if json is not None:
            more["json"] = json
        return self.run(self.client.request(method, path, headers=headers, **more))

    async def status(self, path: str, key: str) -> int:
        headers = {"x-api-key": key}
        return (await self.client.get(path, headers=headers)).status_code

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.call("GET", path, **more)

    def post(self, path: str, json: Any = None, **more: Any) -> httpx.Response:
        return self.call("POST", path, json, **more)

    def replica(self, model: Any, **options: Any) -> FakeReplica:
        made = FakeReplica(model, **options)
        self.run(made.start())
        self.replicas.append(made)
        return made

    def push(self, *routes: dataplane_pb2.EndpointRoute, **replicas: str) -> None:
        """Push a state and wait until it is in force."""
        self.revision += 1
        self.data_plane.push(tables.state(self.revision, *routes, **replicas))
        self.until(lambda: self.gateway.plane.state.revision == self.revision)

    def settle(self) -> None:
        """Wait until everything that was answered is logged."""
        gateway = self.gateway
        self.until(lambda: not gateway.mirror._tasks and not gateway.event_log._rows)

    def logged(self, stream: str, kind: Any, count: int = 1) -> list[Any]:
        """The batches of a stream, once there are so many events; forgets them."""
        self.until(lambda: sum(name == stream for name, _ in self.events) >= count)
        found = [event.unpack(kind) for name, event in self.events if name == stream]
        self.events = [each for each in self.events if each[0] != stream]
        return found

    def predictions(self, count: int = 1) -> list[Predictions]:
        """What was logged of predictions, once there are so many events; forgets it."""
        found = self.logged("predictions", events_pb2.PredictionBatch, count)
        return [Predictions(each, decoded(each.rows)) for each in found]

    def close(self) -> None:
        self.data_plane.hang_up()
        self.run(self._close())
        self.frames.stop()
        self.server.stop(grace=0.1)

    async def _close(self) -> None:
        await self.client.aclose()
        await self.rpc.stop(None)
        await self.gateway.stop()
        for replica in self.replicas:
            await replica.stop()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


@pytest.fixture(scope="module")
def module_suite(
    tmp_path_factory: pytest.TempPathFactory, runner: asyncio.Runner
) -> Iterator[Suite]:
    suite = Suite(tmp_path_factory.mktemp("home"), runner)
    yield suite
    suite.close()


@pytest.fixture
def suite(module_suite: Suite) -> Suite:
    """The gateway of this module, with nothing noted yet."""
    module_suite.streams_away = False
    module_suite.settle()
    for noted in (module_suite.registry.asks, module_suite.features.asks, module_suite.events):
        noted.clear()
    module_suite.registry.stream_error = module_suite.features.away = False
    module_suite.features.remembered = False
    module_suite.features.delay = 0.0
    return module_suite


@pytest.fixture(scope="module")
def made_two(module_suite: Suite) -> Iterator[Two]:
    two = Two(module_suite)
    yield two
    module_suite.run(two.served.stop())


@pytest.fixture
def two(made_two: Two, suite: Suite) -> Iterator[Two]:
    made_two.push()
    suite.settle()
    suite.events.clear()
    yield made_two
    suite.until(made_two.idle)
