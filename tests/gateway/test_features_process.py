"""The gateway's reads and a real feature service, which is killed in the middle of them."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis
from modelyard.features.v1 import features_pb2 as pb
from modelyard.features.v1 import features_pb2_grpc

from feature_svc.arrow import to_chunks
from gateway.dataplane.features import FeatureReader
from service_kit import frames
from service_kit.channels import open_aio_channel
from service_kit.errors import DeadlineExceeded, DomainError, Unavailable
from service_kit.settings import ServiceSettings
from tests.feature_svc.examples import apply_request, at, delays, planes

TOKEN = "s" * 64
LIMIT_S = 1.0
Reads = list[tuple[float, Any]]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Service:
    """`python -m feature_svc` on fixed ports, as often as it is started."""

    def __init__(self, home: Path, redis_url: str, project: str) -> None:
        calls, in_frames = free_ports(2)
        self.calls, self.frames = f"127.0.0.1:{calls}", f"127.0.0.1:{in_frames}"
        self._ready = home / "ready.json"
        self._environment = {
            **os.environ,
            "MODELYARD_HOME": str(home),
            "MODELYARD_LISTEN": self.calls,
            "MODELYARD_FRAMES_LISTEN": self.frames,
            "MODELYARD_REDIS_URL": redis_url,
            "MODELYARD_STREAM_PREFIX": project,
            "MODELYARD_SERVICE_TOKEN": TOKEN,
            "MODELYARD_READY_FILE": str(self._ready),
            "MODELYARD_DIE_WITH_PARENT": "true",
        }

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "feature_svc"], env=self._environment
        )
        end = time.monotonic() + 60
        while not self._ready.exists():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def project(redis_url: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"*{name}*", count=10_000):
            client.delete(key)


@pytest.fixture
def service(tmp_path: Path, redis_url: str, project: str) -> Iterator[Service]:
    made = Service(tmp_path, redis_url, project)
    made.start()
    yield made
    made.kill()


async def fill(stub: Any) -> None:
    await stub.ApplyDefinitions(apply_request())
    for view, table in (
        ("delays", delays(["AA"], [1.5], [3], [1])),
        ("planes", planes([("N1", 7, 180.0, "é", True, 0)])),
    ):
        request = pb.PushFeaturesRequest(feature_view=f"featureViews/{view}", online_only=True)
        request.table.arrow_ipc = b"".join(to_chunks(table))
        await stub.PushFeatures(request)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.01)


async def read(reader: FeatureReader) -> Any:
    entities = {"carrier": ["AA"], "tail": ["N1"], "gate": [7]}
    moment = int(at(2).timestamp()) * 1_000_000
    end = time.monotonic() + LIMIT_S
    found = await reader.read("featureServices/late", entities, [moment], end)
    return {name: column.values[0] for name, column in found.items()}


async def keep_reading(reader: FeatureReader, ended: asyncio.Event, reads: Reads) -> None:
    while not ended.is_set():
        began = time.monotonic()
        try:
            outcome: Any = await read(reader)
        except DomainError as error:
            outcome = error
            await asyncio.sleep(0.01)
        reads.append((time.monotonic() - began, outcome))


def test_a_service_that_is_killed_costs_nobody_more_than_the_deadline(
    service: Service, tmp_path: Path
) -> None:
    settings = ServiceSettings(service="gateway", home=tmp_path, service_token=TOKEN)
    good = {"jet": 1, "mean": 1.5, "seats": 180.0, "maker": "é", "count": 3}
    reads: Reads = []

    async def work() -> None:
        channel = open_aio_channel(service.calls, settings)
        stub = features_pb2_grpc.FeatureServiceStub(channel)
        await fill(stub)
        reader = FeatureReader(stub.GetOnlineFeatures)
        connect = functools.partial(frames.connect, settings=settings)
        reader.connect(service.frames, connect, frames.hello(settings))
        link = reader._link
        assert link is not None
        await until(lambda: link.up)
        assert await read(reader) == good
        ended = asyncio.Event()
        askers = [asyncio.create_task(keep_reading(reader, ended, reads)) for _ in range(8)]
        await until(lambda: len(reads) > 200)
        assert [outcome for _, outcome in reads] == [good] * len(reads)
        service.kill()
        await until(lambda: sum(isinstance(each, DomainError) for _, each in reads) > 20)
        await asyncio.to_thread(service.start)
        await until(lambda: link.up)
        await asyncio.sleep(0.2)
        reads.append((0.0, None))
        await asyncio.sleep(0.3)
        ended.set()
        await asyncio.gather(*askers)
        await reader.close()
        await channel.close()

    asyncio.run(work())
    assert max(took for took, _ in reads) < LIMIT_S + 0.5
    failures = [each for _, each in reads if isinstance(each, DomainError)]
    assert {type(each) for each in failures} <= {Unavailable, DeadlineExceeded}
    last = [outcome for _, outcome in reads]
    last = last[last.index(None) + 1 :]
    assert last == [good] * len(last)
    assert last


def test_a_gateway_with_another_token_gets_no_features(service: Service, tmp_path: Path) -> None:
    stranger = ServiceSettings(service="gateway", home=tmp_path, service_token="another")

    async def work() -> DomainError:
        channel = open_aio_channel(service.calls, stranger)
        stub = features_pb2_grpc.FeatureServiceStub(channel)
        reader = FeatureReader(stub.GetOnlineFeatures)
        connect = functools.partial(frames.connect, settings=stranger)
        reader.connect(service.frames, connect, frames.hello(stranger))
        await asyncio.sleep(0.3)
        assert reader._link is not None
        assert not reader._link.up
        with pytest.raises(DomainError) as error:
            await read(reader)
        await reader.close()
        await channel.close()
        return error.value

    assert asyncio.run(work()).reason == "BAD_SERVICE_TOKEN"
