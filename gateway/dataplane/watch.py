"""Keeps the data plane at the state that serving pushes; when serving is away, at the last one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
from modelyard.dataplane.v1 import dataplane_pb2

from gateway.dataplane.core import DataPlane
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.routing import BadStateError, compile_state
from service_kit import metrics

_BACKOFF_S = (0.1, 2.0)
#: Seconds that a new table waits for the first replica of each version.
_CONNECT_S = 1.0

_log = logging.getLogger(__name__)
_revision = metrics.gauge("dataplane_revision", "Revision of the state in force.")
_refused = metrics.counter("dataplane_states_refused_total", "States that made no sense.")
_watching = metrics.gauge("dataplane_watching", "1 while serving pushes its state.")

Watch = Callable[..., Any]
"""The stub's `WatchDataPlane`."""


class Watcher:
    """Applies each state that comes, whole.

    Args:
        watch: The stub's `WatchDataPlane`.
        name: Who watches, for the logs of serving.
    """

    def __init__(self, watch: Watch, plane: DataPlane, pool: ReplicaPool, name: str) -> None:
        self.watching = False
        self._watch = watch
        self._plane = plane
        self._pool = pool
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._run(), name="watch data plane")

    async def stop(self) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def apply(self, message: dataplane_pb2.DataPlaneState) -> None:
        """Put a state in force: first the new replicas, then the tables, then away with the old."""
        try:
            state = compile_state(message)
        except BadStateError as error:
            _refused.inc()
            _log.error("state refused: %s", error, extra={"revision": message.revision})
            return
        self._pool.add(state.replicas)
        await self._pool.connected(state.replicas, _CONNECT_S)
        self._plane.state = state
        self._plane.cache.keep_only(state.versions())
        self._plane.last_answers.keep_only(state.routes.values())
        self._pool.keep_only(state.replicas)
        _revision.set(state.revision)

    async def _run(self) -> None:
        backoff = _BACKOFF_S[0]
        while True:
            try:
                async for message in self._messages():
                    self._note(watching=True)
                    backoff = _BACKOFF_S[0]
                    await self.apply(message)
            except grpc.RpcError as error:
                code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
                if self.watching:
                    _log.warning("serving does not push its state", extra={"code": str(code)})
            self._note(watching=False)
            await asyncio.sleep(backoff * (0.5 + random.random() / 2))  # noqa: S311
            backoff = min(backoff * 2, _BACKOFF_S[1])

    def _messages(self) -> AsyncIterator[dataplane_pb2.DataPlaneState]:
        request = dataplane_pb2.WatchDataPlaneRequest(watcher=self._name)
        call: AsyncIterator[dataplane_pb2.DataPlaneState] = self._watch(request)
        return call

    def _note(self, *, watching: bool) -> None:
        self.watching = watching
        _watching.set(watching)
