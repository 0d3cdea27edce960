from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from monitor_svc.outbound import GuardedClient, is_public
from monitor_svc.plugins import BUILT_IN, SINKS
from monitor_svc.sinks import Notice
from service_kit.errors import FailedPrecondition, InvalidArgument, Unavailable
from service_kit.plugins import PluginCatalog, configure

NOTICE = Notice(
    "key-1", "monitors/m/alerts/a", "endpoints/e", "WARNING", "OPEN", "temp moved", ("temp",),
    datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


class Hook(BaseHTTPRequestHandler):
    status = 200
    seen: list[tuple[dict[str, str], bytes]] = []

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        headers = {key.lower(): value for key, value in self.headers.items()}
        Hook.seen.append((headers, self.rfile.read(length)))
        self.send_response(Hook.status)
        self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.seen, Hook.status = [], 200
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://localhost:{server.server_port}/hook?x=1"
    server.shutdown()
    thread.join()
    server.server_close()


def _deliver(url: str, client: GuardedClient) -> str:
    plugin = PluginCatalog(BUILT_IN).load(SINKS, "webhook")
    return str(configure(plugin, {"url": url}).deliver(NOTICE, client))


def test_a_webhook_gets_the_alert_under_a_stable_key(hook: str):
    client = GuardedClient(["localhost"], lambda host, port: ["127.0.0.1"])
    assert _deliver(hook, client) == "delivered (200)"
    headers, body = Hook.seen[0]
    assert headers["idempotency-key"] == "key-1"
    assert headers["host"].startswith("localhost:")
    assert b'"summary": "temp moved"' in body
    client.close()


@pytest.mark.parametrize(
    ("status", "error"), [(503, Unavailable), (404, FailedPrecondition), (302, FailedPrecondition)]
)
def test_answers_become_errors_and_redirects_are_not_followed(
    hook: str, status: int, error: type[Exception]
):
    Hook.status = status
    client = GuardedClient(["localhost"], lambda host, port: ["127.0.0.1"])
    with pytest.raises(error):
        _deliver(hook, client)
    assert len(Hook.seen) == 1
    client.close()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "::1", "fe80::1%eth0",
     "::ffff:127.0.0.1", "2002:7f00:1::", "0.0.0.0", "224.0.0.1", "fd00::1"],
)  # fmt: skip
def test_private_addresses_are_refused(address: str):
    assert not is_public(address)
    client = GuardedClient(resolver=lambda host, port: ["93.184.216.34", address])
    with pytest.raises(FailedPrecondition) as caught:
        _deliver("https://alerts.example.com/x", client)
    assert caught.value.reason == "ADDRESS_REFUSED"
    client.close()


def test_a_sink_that_is_not_there_is_unavailable():
    client = GuardedClient(["localhost"], lambda host, port: ["127.0.0.1"])
    with pytest.raises(Unavailable):
        _deliver("http://localhost:9/", client)
    client.close()


@pytest.mark.parametrize("url", ["ftp://x/", "http://user@host/", "", "javascript:1"])
def test_odd_urls_are_refused_when_configured(url: str):
    plugin = PluginCatalog(BUILT_IN).load(SINKS, "webhook")
    with pytest.raises(InvalidArgument):
        configure(plugin, {"url": url})
