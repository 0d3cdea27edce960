"""The prediction log and its stream: every row once, whatever is killed; caught up when asked."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from service_kit.ids import uuid7_str
from service_kit.streams import Event, EventStreams
from serving_svc.service.predictions import PredictionLog
from tests.serving_svc import prediction_process
from tests.serving_svc.prediction_rows import (
    KEEP,
    Lineages,
    Log,
    batch,
    ids,
)


@pytest.fixture(params=["redis", "valkey"])
def any_redis(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def prefix(any_redis: str) -> Iterator[str]:
    name = f"test-{uuid7_str()[-12:]}"
    yield name
    with redis.Redis.from_url(any_redis) as client:
        for found in client.scan_iter(match=f"{name}:*"):
            client.delete(found)


def finished(client: redis.Redis, key: str, events: int) -> bool:
    groups: Any = client.xinfo_groups(key)
    return bool(groups) and all(
        group["pending"] == 0 and group["entries-read"] == events for group in groups
    )


def test_every_row_is_there_once_whenever_the_process_is_killed(
    sql_url: str, sql_engine: Engine, any_redis: str, prefix: str, tmp_path: Path
) -> None:
    log = Log(sql_engine, tmp_path / "log")
    streams = EventStreams(any_redis, prefix, timeout=5.0)
    names = ids(400)
    command = [sys.executable, "-m", prediction_process.__name__, sql_url, any_redis, prefix]
    luck = random.Random(5)
    child = None
    try:
        for at in range(0, len(names), 50):
            events = [
                Event.of("predictions", "endpoints/late", batch(names[n : n + 2]))
                for n in range(at, at + 50, 2)
            ]
            # As the gateway does when the answer to an append is lost.
            streams.append("predictions", [*events, events[0]])
            child = subprocess.Popen([*command, str(log.folder)], stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline()
            time.sleep(luck.uniform(0.0, 0.25))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        child = subprocess.Popen([*command, str(log.folder)], stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(any_redis) as client:
            deadline = time.monotonic() + 60
            key = streams.key("predictions")
            while not finished(client, key, 8 * 26):
                assert time.monotonic() < deadline, client.xinfo_groups(key)
                time.sleep(0.05)
            assert client.xlen(f"{key}.dead") == 0
    finally:
        if child is not None:
            child.kill()
            child.wait()
    assert log.rows() == Counter(names)
    log.care.tidy(timedelta(seconds=-1))
    assert len(log.on_disk()) == len(log.listed())


def test_the_log_catches_up_when_somebody_asks(
    sql_engine: Engine, redis_url: str, stream_prefix: str, tmp_path: Path
) -> None:
    log = Log(sql_engine, tmp_path / "log")
    intake = prediction_process.intake(sql_engine, redis_url, stream_prefix, log.folder)
    intake._every = 600.0
    intake.start()
    try:
        assert intake.catch_up(10.0)
        use = PredictionLog(log.catalogue, log.files, Lineages(), log.clock, intake.catch_up, KEEP)
        names = ids(2)
        event = Event.of("predictions", "endpoints/late", batch(names))
        EventStreams(redis_url, stream_prefix, timeout=5.0).append("predictions", [event])
        assert use.get_prediction(names[0]).row.prediction_id == names[0]
    finally:
        intake.stop()
    assert not intake.catch_up(0.1)
