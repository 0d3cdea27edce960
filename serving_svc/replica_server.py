"""A replica's data plane: `InferStream` on an event loop and a port of its own."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc

from service_kit import transport
from service_kit.errors import DomainError
from service_kit.interceptors import authorization, caller_from
from service_kit.settings import ServiceSettings
from serving_svc.batching import MicroBatcher, Sink

SCOPE = "dataplane:infer"
#: Seconds that a replica goes on answering after it has said that it drains.
LINGER_S = 0.5
DRAIN_S = 10.0
_log = logging.getLogger(__name__)


class InferServicer(dataplane_pb2_grpc.ReplicaServiceServicer):
    """Answers streams of micro-batches."""

    def __init__(self, batcher: MicroBatcher, token: str) -> None:
        self._batcher = batcher
        self._expected = authorization(token).encode()
        self._sinks: set[Sink] = set()

    async def InferStream(  # noqa: N802
        self, _: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Read requests while answers are written, until the caller has no more."""
        await self._admit(context)
        sink = Sink()
        self._sinks.add(sink)
        reading = asyncio.create_task(self._read(context, sink))
        try:
            while results := await sink.take():
                await context.write(
                    dataplane_pb2.InferStreamResponse(
                        results=results, queued_rows=self._batcher.queued_rows
                    )
                )
        finally:
            self._sinks.discard(sink)
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    def close(self) -> None:
        """End every stream once it has its answers."""
        for sink in self._sinks:
            sink.close()

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any], sink: Sink) -> None:
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                self._batcher.submit(request.items, sink)
        except grpc.aio.AioRpcError:
            _log.debug("a caller left")
        finally:
            sink.close()

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        metadata = dict(context.invocation_metadata() or ())
        given = str(metadata.get("authorization", "")).encode(errors="replace")
        if not hmac.compare_digest(given, self._expected):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "BAD_SERVICE_TOKEN")
        try:
            allowed = caller_from(metadata).may(SCOPE)
        except DomainError:
            allowed = False
        if not allowed:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


class ReplicaServer:
    """Runs the servicer in a thread with an event loop of its own.

    Args:
        batcher: Scores; used on that loop only.
        settings: Token and TLS.
        host: Address to listen on; the port is any free one.
    """

    def __init__(self, batcher: MicroBatcher, settings: ServiceSettings, host: str) -> None:
        self._batcher = batcher
        self._settings = settings
        self._host = host
        self._servicer = InferServicer(batcher, settings.service_token.get_secret_value())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def in_flight_rows(self) -> int:
        """Rows that wait or are being scored."""
        return self._batcher.queued_rows + self._batcher.scoring_rows

    def take_queue_us(self) -> int:
        """Mean microseconds in the queue since the last call."""
        return self._batcher.take_load().mean_wait_us

    def start(self) -> str:
        """Serve; gives the bound address."""
        bound: Future[str] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(bound)), name="data-plane", daemon=True
        )
        self._thread.start()
        return bound.result(timeout=10.0)

    def stop(self, linger: float = LINGER_S) -> None:
        """Go on answering for `linger` seconds, finish what is under way, then close."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        deadline = time.monotonic() + DRAIN_S
        time.sleep(linger)
        while self._batcher.busy and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5.0)

    async def _serve(self, bound: Future[str]) -> None:
        try:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            server = grpc.aio.server(options=(*transport.OPTIONS, ("grpc.so_reuseport", 0)))
            dataplane_pb2_grpc.add_ReplicaServiceServicer_to_server(self._servicer, server)
            transport.require_safe(f"{self._host}:0", self._settings)
            credentials = transport.server_credentials(self._settings)
            if credentials is None:
                port = server.add_insecure_port(f"{self._host}:0")
            else:
                port = server.add_secure_port(f"{self._host}:0", credentials)
            await server.start()
        except BaseException as error:
            bound.set_exception(error)
            raise
        bound.set_result(f"{self._host}:{port}")
        await self._stop.wait()
        self._servicer.close()
        await server.stop(grace=2.0)
        self._batcher.close()
