"""No request fails, whatever happens to replicas and tables: counted under load, on a real Ray."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

import psutil
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from modelyard.serving.v1 import serving_pb2

from tests.gateway.test_process import gateway
from tests.serving_svc.test_ray import MODEL, TOKEN, Suite, until

V1, V2 = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
ENDPOINT = "endpoints/late"
CALLERS = 6
PAUSE_S = 0.005
BODY = json.dumps({"instances": [{"f0": 1.0, "f1": 1.0, "f2": 1.0}]})


class Traffic:
    """Callers that ask again and again, and count what they are told.

    Attributes:
        answers: How many answers named a (generation, variant, version).
        failures: What was not 200, or was not the model's answer.
        last: Generations in the latest answer of each caller, with its time.
    """

    def __init__(self, address: str, key: str) -> None:
        self.answers: Counter[tuple[int, str, str]] = Counter()
        self.failures: list[str] = []
        self.last: dict[int, tuple[int, float]] = {}
        self._address, self._headers = address, {"x-api-key": key}
        self._headers["content-type"] = "application/json"
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, count: int = 50) -> None:
        """Wait for so many more answers, all of them good."""
        before = self.answers.total()
        until(lambda: self.answers.total() >= before + count or self.failures, 20, "no answers")
        assert self.failures == []

    def in_force(self, generation: int) -> bool:
        """Whether every caller's latest answer is of a table."""
        latest = list(self.last.values())
        return len(latest) == CALLERS and all(each[0] == generation for each in latest)

    def _call(self, number: int) -> None:
        with closing(HTTPConnection(self._address, timeout=10)) as connection:
            while not self._stopping.wait(PAUSE_S):
                try:
                    connection.request("POST", f"/v1/{ENDPOINT}:predict", BODY, self._headers)
                    answer = connection.getresponse()
                    self._note(number, answer.status, answer.read())
                except (OSError, HTTPException) as error:
                    self._note(number, 0, repr(error).encode())

    def _note(self, number: int, status: int, body: bytes) -> None:
        with self._lock:
            if status != 200:
                self.failures.append(f"{status} {body.decode()[:300]}")
                return
            found = json.loads(body)
            told = found["predictions"][0]
            if told.get("fallback") or told["outputs"] != {"late": 2.0}:
                self.failures.append(body.decode()[:300])
            generation = int(found["table_generation"])
            self.answers[generation, told["variant"], told["model_version"]] += 1
            self.last[number] = generation, time.monotonic()


@pytest.fixture
def suite(tmp_path: Path, redis_url: str, stream_prefix: str) -> Iterator[Suite]:
    made = Suite(tmp_path, redis_url, stream_prefix)
    yield made
    made.stop()


@contextmanager
def under_load(suite: Suite, home: Path, *, least: int, most: int) -> Iterator[Traffic]:
    """Version 1 is deployed, and asked through a gateway whose Redis is away."""
    until(suite.answers, 30, "the service did not start")
    wanted = serving_pb2.Endpoint(
        model=MODEL, outcome_independent=True, min_replicas=least, max_replicas=most
    )
    wanted.deadline.FromSeconds(5)
    create = serving_pb2.CreateEndpointRequest(endpoint_id="late", endpoint=wanted)
    suite.serving.CreateEndpoint(create, timeout=5)
    deploy(suite, V1)
    peers = json.dumps({"serving": suite.address, "features": "127.0.0.1:1"})
    with gateway(home, MODELYARD_PEERS=peers, MODELYARD_SERVICE_TOKEN=TOKEN) as (_, facts):
        key = (home / "keys" / "admin.key").read_text().strip()
        until(lambda: served(facts["http"], key), 20, "the gateway has no replica")
        with Traffic(facts["http"], key) as traffic:
            traffic.goes_on()
            yield traffic
            traffic.goes_on()


def served(address: str, key: str) -> bool:
    """Whether the gateway answers for the endpoint."""
    with closing(HTTPConnection(address, timeout=10)) as connection:
        headers = {"x-api-key": key, "content-type": "application/json"}
        connection.request("POST", f"/v1/{ENDPOINT}:predict", BODY, headers)
        return connection.getresponse().status == 200


def deploy(suite: Suite, version: str) -> None:
    request = serving_pb2.DeployVersionRequest(endpoint=ENDPOINT, model_version=version)
    suite.serving.DeployVersion(request, timeout=5)
    until(lambda: suite.deployed(version), 60, f"{version} was not deployed")


def resize(suite: Suite, least: int, most: int) -> None:
    endpoint = serving_pb2.Endpoint(name=ENDPOINT, min_replicas=least, max_replicas=most)
    mask = FieldMask(paths=["min_replicas", "max_replicas"])
    request = serving_pb2.UpdateEndpointRequest(endpoint=endpoint, update_mask=mask)
    suite.serving.UpdateEndpoint(request, timeout=5)


def replicas(suite: Suite, version: str = V1) -> dict[str, str]:
    """Addresses of the replicas that gateways are told of, by id."""
    found = suite.state().replicas
    return {each.replica_id: each.address for each in found if each.model_version == version}


def split(suite: Suite, generation: int, share: float) -> int:
    """Give version 2 a share; the table's generation."""
    variants = [
        serving_pb2.Variant(variant="v1", model_version=V1, weight=100 - share),
        serving_pb2.Variant(variant="v2", model_version=V2, weight=share),
    ]
    request = serving_pb2.UpdateTrafficRequest(
        endpoint=ENDPOINT, generation=generation, variants=variants
    )
    return int(suite.serving.UpdateTraffic(request, timeout=5).traffic.generation)


def process_at(address: str) -> psutil.Process:
    """The process that listens on an address."""
    port = int(address.rpartition(":")[2])
    for each in psutil.net_connections("tcp"):
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
            return psutil.Process(each.pid)
    raise AssertionError("nobody listens there")


@pytest.mark.ray
def test_replicas_come_go_and_die_and_no_request_fails(suite: Suite, tmp_path: Path) -> None:
    with under_load(suite, tmp_path / "gateway", least=2, most=4) as traffic:
        first = replicas(suite)
        assert len(first) == 2

        resize(suite, 3, 4)
        until(lambda: len(replicas(suite)) == 3, 60, "there is no third replica")
        assert first.keys() < replicas(suite).keys(), "those that were there must stay"
        traffic.goes_on()

        resize(suite, 2, 2)
        until(lambda: len(replicas(suite)) == 2, 60, "the third replica is still there")
        traffic.goes_on()

        before = replicas(suite)
        victim, address = next(iter(before.items()))
        process_at(address).kill()
        traffic.goes_on(200)
        until(
            lambda: len(now := replicas(suite)) == 2 and victim not in now,
            60,
            "the replica was not replaced",
        )
        traffic.goes_on()

        deploy(suite, V2)
        until(lambda: traffic.in_force(2), 2, "version 2 does not have all the traffic")
        suite.service.kill()
        suite.service.wait()
        traffic.goes_on(300)
    assert set(traffic.answers) == {(1, "v1", V1), (2, "v2", V2)}
    assert traffic.failures == []


@pytest.mark.ray
def test_tables_change_under_load_and_no_answer_is_mixed(suite: Suite, tmp_path: Path) -> None:
    with under_load(suite, tmp_path / "gateway", least=1, most=1) as traffic:
        deploy(suite, V2)
        generation = 2
        for share in (50.0, 5.0, 100.0, 0.0, 50.0):
            generation = split(suite, generation, share)
            begun = time.monotonic()
            until(lambda now=generation: traffic.in_force(now), 10, "the table is not in force")
            assert time.monotonic() - begun < 2.0
        # Instantly back, and what answers is what the table says.
        request = serving_pb2.RollbackEndpointRequest(endpoint=ENDPOINT)
        restored = suite.serving.RollbackEndpoint(request, timeout=5).traffic
        until(lambda: traffic.in_force(restored.generation), 2, "it did not go back")
    only = {1: {"v1"}, 2: {"v2"}, 5: {"v2"}, 6: {"v1"}}
    for generation, variant, version in traffic.answers:
        assert version == {"v1": V1, "v2": V2}[variant]
        assert variant in only.get(generation, {"v1", "v2"})
    assert traffic.failures == []


@pytest.fixture
def eager_suite(
    tmp_path: Path, redis_url: str, stream_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Suite]:
    """A suite in which any queue at all is too long."""
    monkeypatch.setenv("MODELYARD_REPLICA_TARGET_QUEUE_MS", "0.001")
    monkeypatch.setenv("MODELYARD_SCALE_UP_AFTER_S", "1")
    monkeypatch.setenv("MODELYARD_SCALE_DOWN_AFTER_S", "2")
    made = Suite(tmp_path, redis_url, stream_prefix)
    yield made
    made.stop()


@pytest.mark.ray
def test_load_brings_replicas_and_its_end_takes_them_away(
    eager_suite: Suite, tmp_path: Path
) -> None:
    with under_load(eager_suite, tmp_path / "gateway", least=1, most=3) as traffic:
        until(lambda: len(replicas(eager_suite)) == 3, 60, "the load brought no replicas")
    assert traffic.failures == []
    until(lambda: len(replicas(eager_suite)) == 1, 60, "the replicas stayed without load")
