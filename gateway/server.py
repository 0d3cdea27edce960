"""The gateway's process: settings, logs, the event loop, the ports, the end."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import orjson
import uvicorn
import uvloop

from gateway.gateway import Gateway
from gateway.hotlane.protocol import HotLaneProtocol
from gateway.settings import GatewaySettings
from service_kit import logs, process, security, telemetry, transport
from service_kit.ops_http import OpsServer
from service_kit.readiness import Readiness

#: Seconds that requests under way get once the gateway stops, and the process altogether.
GRACE_S = 3.5
MOST_SECONDS_TO_STOP = 6.0
DATE_S = 1.0

_log = logging.getLogger(__name__)


def load_settings() -> GatewaySettings:
    """The settings, with the suite's keys made when there are none."""
    settings = GatewaySettings(service="gateway")
    if not settings.service_token.get_secret_value():
        security.ensure_suite_keys(settings.home)
        settings = GatewaySettings(service="gateway")
    return settings


def run() -> int:
    """Serve until told to stop; returns the exit status."""
    settings = load_settings()
    logs.configure_logging(settings)
    if settings.die_with_parent:
        process.die_with_parent()
    telemetry.configure(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except Exception:
        _log.critical("gateway cannot run", exc_info=True)
        return 1
    finally:
        telemetry.shutdown()
    return 0


async def serve(settings: GatewaySettings) -> None:
    """Serve until a signal comes.

    Raises:
        UnsafeAddressError: For an address beyond this machine without TLS.
        OSError: When an address cannot be bound.
    """
    transport.require_safe(settings.listen, settings)
    listener = bind(settings.listen)
    gateway = Gateway(settings)
    http = _Server(_uvicorn_config(gateway, settings))
    _stop_on_signals(gateway, http)
    ops = OpsServer(settings, cast(Readiness, gateway.health))
    ops.start()
    try:
        await gateway.start()
        rpc, grpc_address = await gateway.serve_grpc()
        host, port = listener.getsockname()[:2]
        addresses = {
            "http": f"{host}:{port}",
            "grpc": grpc_address,
            "metrics": ops.address,
        }
        _log.info("listening", extra=addresses)
        announced = asyncio.create_task(_announce(http, settings.ready_file, addresses))
        process.settle_memory()
        await http.serve(sockets=[listener])
        await announced
        await rpc.stop(GRACE_S)
    finally:
        await gateway.stop()
        ops.stop()
        _log.info("stopped")


def bind(address: str) -> socket.socket:
    """A listening TCP socket.

    Raises:
        OSError: When the address is taken.
    """
    host, port = transport.split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


class _Server(uvicorn.Server):  # type: ignore[misc]
    """Uvicorn without its own handling of signals, and told to stop instead of looking for it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def stop(self) -> None:
        """End once what is under way is done."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """Renew the date of the answers each second, until told to stop."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_S):
                    await self._told.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(gateway: Gateway, settings: GatewaySettings) -> Any:
    return uvicorn.Config(
        gateway.app,
        http=functools.partial(HotLaneProtocol, gateway.lane, settings.body_timeout_s),
        ws="none",
        lifespan="off",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(GRACE_S),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _stop_on_signals(gateway: Gateway, http: _Server) -> None:
    def stop() -> None:
        gateway.health.drain()
        http.stop()
        timer = threading.Timer(MOST_SECONDS_TO_STOP, os._exit, args=(0,))
        timer.daemon = True
        timer.start()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)


async def _announce(http: _Server, path: Path | None, addresses: dict[str, str]) -> None:
    while not http.started and not http.should_exit:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    if path is None or not http.started:
        return
    facts = {"service": "gateway", "pid": os.getpid(), **addresses}
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(orjson.dumps(facts))
    scratch.replace(path)
