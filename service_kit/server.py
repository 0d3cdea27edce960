"""The whole ``main`` of a service: settings, logs, traces, server, background work, the end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pydantic import ValidationError

from service_kit import logs, process, security, telemetry
from service_kit.grpc_server import Service, ServiceServer
from service_kit.readiness import Ping
from service_kit.settings import ServiceSettings

__all__ = ["Application", "Background", "Service", "ServiceServer", "run"]

#: Seconds between the signal to stop and the end of the process, come what may.
MOST_SECONDS_TO_STOP = 5.0

S = TypeVar("S", bound=ServiceSettings)
_log = logging.getLogger(__name__)


class Background(Protocol):
    """Work beside the calls: a relay, a consumer, a durable engine."""

    def start(self) -> object:
        """Begin, in threads of its own."""
        ...

    def stop(self) -> object:
        """End, within a second or two."""
        ...


@dataclass(frozen=True, slots=True)
class Application:
    """What a service is made of once it is wired.

    Attributes:
        services: ``(add_XServicer_to_server, servicer)`` pairs.
        background: Started in this order before the service is ready, stopped in the reverse.
        pings: Dependencies by name; each raises while its dependency is away.
        drain: Called before the server stops: ends calls that would go on for ever (a watch).
    """

    services: Sequence[Service]
    background: Sequence[Background] = ()
    pings: Mapping[str, Ping] = field(default_factory=dict)
    drain: Callable[[], object] = lambda: None


def run(
    service: str,
    build: Callable[[S], Application],
    settings_type: type[S] | None = None,
) -> None:
    """Run a service until it is told to stop; exits with status 1 when it cannot start.

    The port answers at once; ``build`` may take its time, so heavy imports belong into it.

    Args:
        service: Area, e.g. ``registry``.
        build: Makes the application of the settings.
        settings_type: Class of the settings, when the service has some of its own.
    """
    settings = _settings(service, settings_type)
    logs.configure_logging(settings)
    if settings.die_with_parent:
        process.die_with_parent()
    telemetry.configure(settings)
    try:
        server = ServiceServer(settings)
        _stop_on_signals(server)
        server.bind()
        _log.info("listening", extra={"grpc": server.address, "metrics": server.metrics_address})
        _serve(server, lambda: build(settings))
    except Exception:
        _log.critical("service cannot run", exc_info=True)
        _leave_within(1.0, status=1)
        sys.exit(1)
    finally:
        telemetry.shutdown()


def _serve(server: ServiceServer, build: Callable[[], Application]) -> None:
    started: list[Background] = []
    application = Application(services=())
    try:
        application = build()
        for background in application.background:
            background.start()
            started.append(background)
        # After the background: a call may need what it starts, a durable engine for one.
        for service in application.services:
            server.add(service[0], service[1])
        server.open(application.pings)
        server.wait_until_asked()
    finally:
        application.drain()
        server.stop()
        for background in reversed(started):
            _stop(background)
        _log.info("stopped")


def _stop(background: Background) -> None:
    try:
        background.stop()
    except Exception:
        _log.exception("background work did not stop well")


def _settings(service: str, settings_type: type[S] | None) -> S:
    kind: type[S] = settings_type or ServiceSettings  # type: ignore[assignment]
    try:
        settings = kind(service=service)
        if not settings.service_token.get_secret_value():
            security.ensure_suite_keys(settings.home)
            settings = kind(service=service)
    except ValidationError as error:
        logs.install(service, "INFO")
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        _log.critical("settings are wrong", extra={"problems": problems})
        sys.exit(2)
    return settings


def _stop_on_signals(server: ServiceServer) -> None:
    # What a handler does, it does in the midst of whatever the main thread was doing: it could
    # wait for a lock that this holds. So the signal only writes to a pipe that a thread reads.
    asked, asking = os.pipe()
    os.set_blocking(asking, False)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: None)
    signal.set_wakeup_fd(asking, warn_on_full_buffer=False)

    def stop() -> None:
        while os.read(asked, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass  # one that is somebody else's
        _leave_within(MOST_SECONDS_TO_STOP, status=0)
        server.ask_to_stop()

    threading.Thread(target=stop, name="signals", daemon=True).start()


def _leave_within(seconds: float, *, status: int) -> None:
    # A handler that never returns would otherwise hold the interpreter for ever.
    timer = threading.Timer(seconds, os._exit, args=(status,))
    timer.daemon = True
    timer.start()
