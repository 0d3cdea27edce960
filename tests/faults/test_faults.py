"""Whatever of the suite is killed, no prediction fails: counted under load, on a whole suite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from client.suite.plan import RAY
from tests.e2e.fixtures import left_behind
from tests.faults.features import ask, deploy_looked_up
from tests.faults.load import Load
from tests.faults.part import ENDPOINT, Part, marked, until
from tests.faults.proxy import Proxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

HEALED_S = 90.0
MOST_BUFFERED_ROWS = 50_000
NODE = "MODELYARD_FAULTS_NODE"

Record = Callable[[str, object], None]


@contextmanager
def counted(part: Part, record: Record, rows: int = 1) -> Iterator[Load]:
    """Load during which no request may fail and after which the log has every row or its count."""
    until(part.healed, HEALED_S, "the suite was not whole before")
    logged, dropped = part.logged()
    with Load(part.suite.port, part.key, rows) as load:
        yield load
        load.goes_on()
    load.check()
    record("requests", len(load.seconds))
    record("p99_ms", round(load.p99_ms, 1))
    until(lambda: sum(part.logged()) == logged + dropped + load.rows, 20, "rows are missing")
    record("dropped", part.logged()[1] - dropped)


@pytest.mark.parametrize("name", ["valkey", "registry", "serving"])
def test_a_part_is_killed(part: Part, record_property: Record, name: str) -> None:
    dropped = part.logged()[1]
    with counted(part, record_property) as load:
        part.kill(name)
        load.goes_on()
        until(part.healed, HEALED_S, f"the suite did not recover from the end of {name}")
    assert part.logged()[1] == dropped, "so short an outage loses nothing"
    assert load.p99_ms < 500


def test_a_stream_that_hangs_costs_rows_of_the_log_and_no_answer(
    part: Part, record_property: Record
) -> None:
    dropped = part.logged()[1]
    with counted(part, record_property, rows=500) as load:
        with part.hanging("valkey"):
            until(lambda: load.failures or part.logged()[1] > dropped, 60, "nothing was dropped")
            load.goes_on()
            waiting = sum(part.metric("modelyard_log_buffered_rows"))
            assert 0 < waiting <= MOST_BUFFERED_ROWS
        until(part.healed, HEALED_S, "the suite did not recover")
    until(lambda: sum(part.metric("modelyard_log_buffered_rows")) == 0, 20, "rows wait on")


def test_postgresql_is_away(part: Part, postgres: Proxy | None, record_property: Record) -> None:
    if postgres is None:
        pytest.skip("MODELYARD_TEST_SERVICES=embedded leaves PostgreSQL out")
    with counted(part, record_property) as load:
        postgres.cut()
        until(lambda: not part.ready() or load.failures, 20, "nobody noticed")
        load.goes_on(300)
        postgres.mend()
        until(part.healed, HEALED_S, "the suite did not recover")
    assert load.p99_ms < 500


@pytest.mark.parametrize("program", ["gcs_server", "raylet", "ray"])
def test_rays_head_is_killed(part: Part, record_property: Record, program: str) -> None:
    before = part.pid("ray")
    with counted(part, record_property) as load:
        if program == "ray":
            os.kill(before, signal.SIGKILL)
        else:
            part.kill_below("ray", program)
        until(lambda: part.orphans() == 2 or load.failures, 30, "replicas did not go on")
        load.goes_on()
        until(lambda: part.pid("ray") != before, 60, "Ray was not started again")
        until(part.healed, HEALED_S, "Ray did not place the replicas again")
    assert load.p99_ms < 500


def line_of(process: psutil.Process) -> list[str]:
    """A process's command line; nothing of one that has just ended."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def test_a_node_is_lost(part: Part, record_property: Record) -> None:
    with second_node(part), counted(part, record_property) as load:
        with part.suite.client() as client:
            more = {"name": ENDPOINT, "min_replicas": 4}
            client.call("PATCH", f"/v1/{ENDPOINT}", more, params={"update_mask": "min_replicas"})
        until(lambda: part.placed() == 4, HEALED_S, "there are no four replicas")
        lost = marked(NODE)
        replicas = [each for each in lost if "serving_svc.replica_process" in line_of(each)]
        assert 0 < len(replicas) < 4, "the second node has some of the replicas"
        for each in lost:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(lost, timeout=5)
        load.goes_on(200)
        until(lambda: part.healed(4), HEALED_S, "the replicas did not come back")
    assert load.p99_ms < 500


def test_without_redis_features_that_were_read_are_remembered(part: Part) -> None:
    """What is asked then was never asked before: only the user is the same."""
    deploy_looked_up(part)
    until(lambda: ask(part, 1.0) == (2.0, ""), 30, "the model does not answer")
    before = part.pid("valkey")
    with part.hanging("valkey"):
        for number in range(2, 22):
            assert ask(part, number) == (3.0 - number, "remembered_features")
    os.kill(before, signal.SIGKILL)
    found: list[str] = []

    def whole() -> bool:
        number = 100 + len(found)
        score, fallback = ask(part, number)
        assert score == 3.0 - number
        found.append(fallback)
        return part.pid("valkey") != before and fallback == ""

    until(whole, HEALED_S, "features did not come back")
    assert {*found} <= {"", "remembered_features"}


def test_without_features_the_last_answer_is_given_again(part: Part) -> None:
    deploy_looked_up(part)
    until(lambda: ask(part, 1.0) == (2.0, ""), 30, "the model does not answer")
    with part.hanging("features"):
        until(lambda: ask(part, 1.0) == (2.0, "last_answer"), 20, "nobody noticed")
        assert [ask(part, 1.0) for _ in range(10)] == [(2.0, "last_answer")] * 10
    until(lambda: ask(part, 1.0) == (2.0, ""), HEALED_S, "features did not come back")


def test_no_orphan_outlives_the_suite(part: Part) -> None:
    # The last test: it takes the suite away.
    os.kill(part.pid("ray"), signal.SIGKILL)
    until(lambda: part.orphans() >= 2, 30, "replicas did not go on")
    launcher = int(json.loads((part.suite.home / "run" / "suite.json").read_text())["pid"])
    os.kill(launcher, signal.SIGKILL)
    assert left_behind(part.suite.home, part.suite.port, 20) == []


@contextmanager
def second_node(part: Part) -> Iterator[None]:
    """One more node of the suite's Ray, on this machine."""
    ray = str(Path(sys.executable).with_name("ray"))
    command = (
        *(ray, "start", "--block", f"--address=127.0.0.1:{part.suite.port + RAY}"),
        *("--num-cpus=2", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"),
        *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
    )
    environment = psutil.Process(part.pid("ray")).environ() | {NODE: "2"}
    log = part.suite.home / "logs" / "node.log"
    with log.open("wb") as output:
        node = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        until(lambda: "runtime started" in log.read_text(), 60, "the second node did not join")
        yield
    finally:
        for each in marked(NODE):
            each.kill()
        node.wait()
