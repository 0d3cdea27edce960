"""The gateway's readiness: every dependency by name.

The gateway goes on answering predictions while any of its dependencies is away, so a missing one
makes it degraded, not unready: a load balancer that took it out would make things worse.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from service_kit import metrics

State = Literal["starting", "ready", "degraded", "draining"]
Ping = Callable[[], Awaitable[None]]

INTERVAL_S = 5.0
_SOON_S = 0.5
_TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)
_up = metrics.gauge("dependency_up", "1 while a dependency answers.", ("dependency",))


class Health:
    """Pings each dependency again and again.

    Args:
        pings: Each raises while its dependency is away.
    """

    def __init__(self, pings: Mapping[str, Ping]) -> None:
        self.state: State = "starting"
        self._pings = dict(pings)
        self._found: dict[str, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do the first round now and go on."""
        await self.check()
        self._task = asyncio.create_task(self._run(), name="health")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def drain(self) -> None:
        """Be unready from now on."""
        self.state = "draining"

    def serving(self) -> bool:
        """Whether requests are welcome."""
        return self.state in ("ready", "degraded")

    def report(self) -> dict[str, Any]:
        """The state and what each dependency said last."""
        return {"status": self.state, "dependencies": dict(self._found)}

    async def check(self) -> None:
        """Do one round."""
        found = await asyncio.gather(*(self._ask(ping) for ping in self._pings.values()))
        self._found = dict(zip(self._pings, found, strict=True))
        for name, each in self._found.items():
            _up.labels(name).set(each["ok"])
        failing = sorted(name for name, each in self._found.items() if not each["ok"])
        state: State = "degraded" if failing else "ready"
        if self.state not in ("draining", state):
            _log.info("gateway is %s", state, extra={"failing": failing})
            self.state = state

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S if self.state == "ready" else _SOON_S)
            await self.check()

    async def _ask(self, ping: Ping) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await ping()
        except Exception as error:
            # Only the kind of error: its text may hold addresses and passwords.
            return {"ok": False, "error": type(error).__name__}
        return {"ok": True, "milliseconds": round((time.perf_counter() - started) * 1e3, 2)}
