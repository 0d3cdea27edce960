"""A client and what it talks to."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from client import Client
from tests.client.gateway import Gateway


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    answering = Gateway()
    thread = threading.Thread(target=answering.server.serve_forever)
    thread.start()
    yield answering
    answering.server.shutdown()
    answering.server.server_close()
    thread.join()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url, "myk_test") as made:
        yield made
