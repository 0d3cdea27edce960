"""The gRPC server of a service: bound at once, ready when its dependencies are."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service_kit import interceptors, transport
from service_kit.ops_http import OpsServer
from service_kit.readiness import Ping, Readiness
from service_kit.routing import AddToServer, Router
from service_kit.settings import ServiceSettings

THREADS = 32
#: Calls being handled or waiting for a thread; more are refused with ``RESOURCE_EXHAUSTED``.
MOST_CALLS = 512
#: Seconds that calls under way get to finish once the server stops.
GRACE = 3.5

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

#: ``(add_XServicer_to_server, servicer)``, optionally followed by the service's full name.
Service = tuple[AddToServer, object] | tuple[AddToServer, object, str]


class ServiceServer:
    """A gRPC server with health, reflection, interceptors and ``/metrics``.

    ``start()`` is ``bind()`` and ``open()`` in one; a service that has much to load binds first,
    answers ``NOT_SERVING`` meanwhile, adds its servicers and then opens.

    Args:
        settings: Addresses, TLS and the suite's service token.
        services: Servicers with their generated ``add_…_to_server`` functions.
        ready: Pings of the dependencies by name; each raises while its dependency is away.

    Raises:
        ValueError: Without a service token.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        services: Sequence[Service] = (),
        ready: Mapping[str, Ping] | None = None,
    ) -> None:
        token = settings.service_token.get_secret_value()
        if not token:
            raise ValueError("no service token: set MODELYARD_SERVICE_TOKEN or make suite keys")
        self.address = ""
        self.metrics_address = ""
        self._settings = settings
        self._pings = dict(ready or {})
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._router = Router(interceptors.guard(token))
        self._health = health.HealthServicer()
        self._health.set("", _NOT_SERVING)
        self._readiness = Readiness(self._set_health)
        self._server = _make_server(self._router)
        self._ops: OpsServer | None = None
        self._router.add(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        for service in services:
            self.add(service[0], service[1])

    def add(self, add_to_server: AddToServer, servicer: object) -> None:
        """Add a servicer by its generated ``add_…Servicer_to_server``."""
        self._router.add(add_to_server, servicer)

    def start(self) -> str:
        """Bind and open; returns the bound address."""
        address = self.bind()
        self.open()
        return address

    def bind(self) -> str:
        """Take the ports and answer, not ready as yet; returns the bound gRPC address.

        Raises:
            UnsafeAddressError: For an address beyond this machine without TLS.
            OSError: When an address cannot be bound.
        """
        self._ops = OpsServer(self._settings, self._readiness)
        try:
            self.address = _bind(self._server, self._settings)
        except BaseException:
            self._ops.stop()
            raise
        self.metrics_address = self._ops.address
        self._ops.start()
        self._server.start()
        return self.address

    def open(self, pings: Mapping[str, Ping] | None = None) -> None:
        """All servicers are there: ping the dependencies and be ready when they answer.

        Args:
            pings: More dependencies, beside those given at the start.
        """
        from grpc_reflection.v1alpha import reflection

        names = [*self._router.names, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._router)
        for name in names:
            self._health.set(name, _NOT_SERVING)
        self._router.open()
        self._readiness.start(self._pings | dict(pings or {}))

    def wait(self) -> None:
        """Block until SIGTERM, SIGINT or ``stop()`` from elsewhere, then drain.

        The signals are taken over in the main thread only; others cannot.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self._on_signal)
        self.wait_until_asked()
        self.stop()

    def wait_until_asked(self) -> None:
        """Block until ``ask_to_stop()`` or ``stop()`` is called."""
        self._stopping.wait()

    def ask_to_stop(self) -> None:
        """Let those go on who wait for the end; safe to call in a signal handler."""
        self._stopping.set()

    def stop(self, grace: float = GRACE) -> None:
        """Take no more calls, let those under way finish for ``grace`` seconds, free the ports."""
        self._stopping.set()
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._readiness.drain()
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait(grace + 0.5)
        if self._ops is not None:
            self._ops.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(grace=0.2)

    def _on_signal(self, *_: object) -> None:
        self.ask_to_stop()

    def _set_health(self, ready: bool) -> None:
        for name in ("", *self._router.names):
            self._health.set(name, _SERVING if ready else _NOT_SERVING)
        if ready and self._settings.ready_file is not None:
            self._announce(self._settings.ready_file)

    def _announce(self, path: Path) -> None:
        import orjson

        facts: dict[str, Any] = {
            "service": self._settings.service,
            "pid": os.getpid(),
            "grpc": self.address,
            "metrics": self.metrics_address,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{os.getpid()}")
        scratch.write_bytes(orjson.dumps(facts))
        scratch.replace(path)


def _make_server(router: Router) -> grpc.Server:
    return grpc.server(
        ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="rpc"),
        handlers=(router,),
        options=(
            *transport.OPTIONS,
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ),
        maximum_concurrent_rpcs=MOST_CALLS,
    )


def _bind(server: grpc.Server, settings: ServiceSettings) -> str:
    address = settings.listen
    transport.require_safe(address, settings)
    if transport.is_unix(address):
        _add_port(lambda: server.add_insecure_port(address), address)
        with contextlib.suppress(FileNotFoundError):
            Path(address.removeprefix("unix:").removeprefix("//")).chmod(0o600)
        return address
    host, colon, _ = address.rpartition(":")
    credentials = transport.server_credentials(settings)
    if credentials is None:
        port = _add_port(lambda: server.add_insecure_port(address), address)
    else:
        port = _add_port(lambda: server.add_secure_port(address, credentials), address)
    return f"{host}{colon}{port}"


def _add_port(add: Callable[[], int], address: str) -> int:
    try:
        port = add()
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    if port == 0:
        raise OSError(f"cannot listen on {address}")
    return port
