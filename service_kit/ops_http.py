"""``/metrics``, ``/healthz`` and ``/readyz`` over plain HTTP, beside the gRPC port."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from service_kit import metrics, transport
from service_kit.readiness import Readiness
from service_kit.settings import ServiceSettings

Answer = tuple[int, str, bytes]


class OpsServer:
    """A small HTTP server in threads of its own.

    Raises:
        UnsafeAddressError: When ``metrics_listen`` can be reached from outside and TLS is missing.
        OSError: When the address cannot be bound.
    """

    def __init__(self, settings: ServiceSettings, readiness: Readiness) -> None:
        transport.require_safe(settings.metrics_listen, settings)
        host, port = transport.split_address(settings.metrics_listen)
        kind = _Server6 if ":" in host else _Server
        self._server = kind((host, port), _handler(readiness))
        tls = None if transport.is_local(settings.metrics_listen) else transport.http_tls(settings)
        if tls is not None:
            # Each connection does its handshake in its own thread, not in the one that accepts.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_until_told, name="ops-http", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        if self._thread.is_alive():
            self._server.tell()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    timeout = 0  # `handle_request` waits for nobody: the caller may be gone already

    def __init__(self, *args: Any) -> None:
        self._told, self._ending = socket.socketpair()
        super().__init__(*args)

    def serve_until_told(self) -> None:
        """Serve without looking many times a second whether to stop, as `serve_forever` does."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.register(self._told, selectors.EVENT_READ)
            while all(key.fileobj is not self._told for key, _ in selector.select()):
                self.handle_request()

    def tell(self) -> None:
        """Have it stop."""
        self._ending.close()

    def server_close(self) -> None:
        """Free the port."""
        super().server_close()
        self._ending.close()
        self._told.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is nobody's news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    answers: dict[str, Callable[[], Answer]] = {
        "/metrics": _metrics,
        "/healthz": lambda: (200, "application/json", b'{"status":"alive"}'),
        "/readyz": lambda: _ready(readiness),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            status, content_type, body = answer() if answer else (404, "text/plain", b"")
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            return "modelyard"

        def log_message(self, *_: object) -> None:
            """Probes are not worth a line."""

    return Handler


def _metrics() -> Answer:
    body, content_type = metrics.render()
    return 200, content_type, body


def _ready(readiness: Readiness) -> Answer:
    status = 200 if readiness.serving() else 503
    return status, "application/json", orjson.dumps(readiness.report())
