"""Fakes of the areas' services and of replicas, behind real gRPC servers."""

# ruff: noqa: N802 - the names that generated code asks for

from __future__ import annotations

import asyncio
import math
import queue
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import empty_pb2
from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from modelyard.features.v1 import features_pb2, features_pb2_grpc
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc

from service_kit.context import current_caller, remaining
from service_kit.errors import NotFound, ResourceExhausted
from service_kit.frames import FrameProtocol

Rows = list[list[float]]
Model = Callable[[Rows], Rows]


class FakeReplica:
    """A replica whose model is a function.

    Attributes:
        batches: Requests in each message, in the order of arrival.
    """

    def __init__(self, model: Model, *, delay: float = 0.0) -> None:
        self.model = model
        self.delay = delay
        self.error = ""
        self.break_next = False
        self.raw: bytes | None = None
        self.batches: list[int] = []
        self.address = ""
        self.callers: set[_Caller] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self), "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self.address

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for caller in list(self.callers):
                caller.transport.abort()

    async def answer(self, caller: _Caller, request: Any) -> None:
        self.batches.append(len(request.rows))
        if self.break_next:
            self.break_next = False
            caller.transport.abort()
            return
        if self.delay:
            await asyncio.sleep(self.delay)
        response = dataplane_pb2.InferStreamResponse(id=request.id, queue_us=20, score_us=230)
        if self.error:
            response.error_reasons.append(self.error)
        else:
            response.outputs = self._outputs(request)
        caller.send(response.SerializeToString())

    def _outputs(self, request: Any) -> bytes:
        if self.raw is not None:
            return self.raw
        flat = array("f")
        flat.frombytes(request.inputs)
        width = len(flat) // sum(request.rows)
        rows = [flat[at : at + width].tolist() for at in range(0, len(flat), width)]
        return array("f", [value for row in self.model(rows) for value in row]).tobytes()


class _Caller(FrameProtocol):
    """A connection to a fake replica, which lets everybody in."""

    def __init__(self, replica: FakeReplica) -> None:
        super().__init__()
        self._replica = replica
        self._requests: asyncio.Queue[bytes] | None = None

    def opened(self) -> None:
        self._replica.callers.add(self)

    def closed(self) -> None:
        self._replica.callers.discard(self)
        if self._requests is not None:
            self._working.cancel()

    def received(self, message: bytes) -> None:
        if self._requests is None:
            self.send(dataplane_pb2.Welcome().SerializeToString())
            self.trust()
            self._requests = asyncio.Queue()
            self._working = asyncio.create_task(self._work(self._requests))
        else:
            self._requests.put_nowait(message)

    async def _work(self, requests: asyncio.Queue[bytes]) -> None:
        while True:
            request = dataplane_pb2.InferStreamRequest.FromString(await requests.get())
            await self._replica.answer(self, request)


class FakeDataPlane(dataplane_pb2_grpc.DataPlaneServiceServicer):
    """Pushes the states that a test gives."""

    def __init__(self) -> None:
        self._state: dataplane_pb2.DataPlaneState | None = None
        self._watchers: list[queue.Queue[Any]] = []

    def push(self, state: dataplane_pb2.DataPlaneState) -> None:
        self._state = state
        for watcher in self._watchers:
            watcher.put(state)

    def hang_up(self) -> None:
        for watcher in self._watchers:
            watcher.put(None)

    def WatchDataPlane(self, request: Any, context: Any) -> Iterator[Any]:
        mine: queue.Queue[Any] = queue.Queue()
        self._watchers.append(mine)
        context.add_callback(lambda: mine.put(None))
        if self._state is not None:
            yield self._state
        while (state := mine.get()) is not None:
            yield state
        self._watchers.remove(mine)


class FakeFeatures(features_pb2_grpc.FeatureServiceServicer):
    """A store of two features: `mean_delay` of a carrier and `wind` of an origin.

    Attributes:
        calls: How many of the reads came as calls.
        remembered: Whether it says that its own store is away.
    """

    DELAYS = {"UA": 10.0, "AA": 20.0}
    WINDS = {"JFK": 1.5, "LGA": 2.5}

    def __init__(self) -> None:
        self.asks: list[features_pb2.GetOnlineFeaturesRequest] = []
        self.calls = 0
        self.away = self.remembered = False
        self.delay = 0.0

    def GetOnlineFeatures(self, request: Any, context: Any) -> Any:
        self.calls += 1
        return self.read(request)

    def read(
        self, request: features_pb2.GetOnlineFeaturesRequest
    ) -> features_pb2.GetOnlineFeaturesResponse:
        self.asks.append(request)
        if self.away:
            raise ResourceExhausted("STORE_BUSY", "the store is busy")
        if self.delay:
            time.sleep(self.delay)
        entities = {column.name: list(column.strings.values) for column in request.entities}
        response = features_pb2.GetOnlineFeaturesResponse(remembered=self.remembered)
        _add(response, "mean_delay", entities["carrier"], self.DELAYS)
        _add(response, "wind", entities["origin"], self.WINDS)
        return response

    def GetFeatureService(self, request: Any, context: Any) -> Any:
        return features_pb2.FeatureServiceDefinition(
            name=request.name,
            features=["carriers:mean_delay", "weather:wind"],
            join_keys=["carrier", "origin"],
        )

    def GetFeatureView(self, request: Any, context: Any) -> Any:
        entity = {"carriers": "carrier", "weather": "origin"}[request.name.split("/")[1]]
        return features_pb2.FeatureView(name=request.name, entities=[f"entities/{entity}"])


def _add(response: Any, name: str, keys: list[str], known: dict[str, float]) -> None:
    column = response.features.add(name=name)
    statuses = bytearray()
    for key in keys:
        value = known.get(key)
        column.doubles.values.append(0.0 if value is None else value)
        column.event_times_us.append(0 if value is None else 1_000)
        if key == "NULL":
            statuses.append(data_pb2.VALUE_STATUS_NULL)
        elif value is None:
            statuses.append(data_pb2.VALUE_STATUS_NOT_FOUND)
        else:
            statuses.append(data_pb2.VALUE_STATUS_PRESENT)
    column.statuses = bytes(statuses)


class FakeRegistry(registry_pb2_grpc.RegistryServiceServicer):
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asks: list[Any] = []
        self.callers: list[Any] = []
        self.deadlines: list[float] = []
        self.chunks: list[bytes] = []
        self.stream_error = False

    def _note(self, request: Any) -> None:
        self.asks.append(request)
        self.callers.append(current_caller())
        self.deadlines.append(remaining())

    def CreateModel(self, request: Any, context: Any) -> Any:
        self._note(request)
        request.model.name = f"models/{request.model_id}"
        return request.model

    def GetModel(self, request: Any, context: Any) -> Any:
        self._note(request)
        if request.name == "models/none":
            raise NotFound("MODEL_NOT_FOUND", "there is no such model", field="name")
        if request.name == "models/busy":
            raise ResourceExhausted("QUOTA", "too much", retry_after_s="7")
        if request.name == "models/bug":
            raise RuntimeError("secret text")
        return registry_pb2.Model(name=request.name, tags={"team": "ops"})

    def GetModelVersion(self, request: Any, context: Any) -> Any:
        self._note(request)
        return registry_pb2.ModelVersion(name=request.name)

    def ListModels(self, request: Any, context: Any) -> Any:
        self._note(request)
        return registry_pb2.ListModelsResponse(models=[registry_pb2.Model(name="models/a")])

    def UpdateModel(self, request: Any, context: Any) -> Any:
        self._note(request)
        return request.model

    def DeleteModelAlias(self, request: Any, context: Any) -> Any:
        self._note(request)
        return empty_pb2.Empty()

    def WriteArtifact(self, requests: Any, context: Any) -> Any:
        for request in requests:
            self.chunks.append(request.chunk)
        return registry_pb2.Artifact()

    def ReadArtifact(self, request: Any, context: Any) -> Iterator[Any]:
        self._note(request)
        if request.name.endswith("/none"):
            raise NotFound("ARTIFACT_NOT_FOUND", "there is no such artifact", field="name")
        yield registry_pb2.ReadArtifactResponse(chunk=b"one")
        yield registry_pb2.ReadArtifactResponse(chunk=b"two")
        if self.stream_error:
            raise ResourceExhausted("DISK_BUSY", "the disk is busy")


def total(rows: Rows) -> Rows:
    """The sum of a row, with 1000 for each missing value."""
    return [[sum(1000.0 if math.isnan(v) else v for v in row)] for row in rows]


def const(value: float) -> Model:
    """A model that says the same of every row."""
    return lambda rows: [[value] for _ in rows]
