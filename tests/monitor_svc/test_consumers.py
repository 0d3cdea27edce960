"""What the service reads of its streams, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from modelyard.events.v1 import events_pb2

from monitor_svc import storage
from monitor_svc.__main__ import consumers
from service_kit.streams import Event, EventStreams
from tests.monitor_svc.conftest import House, monitor, reference_rows
from tests.monitor_svc.test_api import batch


@pytest.fixture
def streams(redis_url: str, stream_prefix: str) -> Iterator[EventStreams]:
    opened = EventStreams(redis_url, stream_prefix)
    yield opened
    opened.close()


def test_predictions_are_read_once_somebody_monitors(house: House, streams: EventStreams) -> None:
    reads = storage.reads(house.engine)
    predictions, outcomes = consumers(house.engine, streams, house.ingestion, reads)
    payload = batch(0, 0.0, count=5)

    def happens() -> None:
        streams.append("predictions", [Event.of("predictions", payload.endpoint, payload)])
        streams.append("outcomes", [Event.of("outcomes", "m", events_pb2.OutcomeBatch(metric="m"))])
        time.sleep(0.002)  # what came in this very millisecond is not past yet

    happens()
    assert (predictions.poll_once(), outcomes.poll_once()) == (0, 1)
    house.create(monitor(), reference_rows())
    happens()
    assert (predictions.poll_once(), outcomes.poll_once()) == (1, 1)
    predictions.stop()
    outcomes.stop()
