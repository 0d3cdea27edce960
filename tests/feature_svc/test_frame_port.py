"""Online reads in frames, on a real Redis and a real Valkey: as by calls, and together."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from modelyard.dataplane.v1 import dataplane_pb2 as pb
from modelyard.features.v1 import features_pb2

from feature_svc import messages as to
from feature_svc.domain import Definitions
from feature_svc.domain.online.plan import Command
from feature_svc.domain.online.rows import encode_rows
from feature_svc.frame_port import MOST_WAITING_ROWS, FramePort
from feature_svc.online_store import READ_TIMEOUT_S, RedisOnlineStore
from feature_svc.service import CurrentDefinitions, OnlineReads, RememberedReplies, Wanted
from feature_svc.service.reading import micros
from gateway.dataplane.feature_wire import columns_of_call, columns_of_frame
from service_kit import metrics
from service_kit.clock import SystemClock
from service_kit.errors import InvalidArgument, NotFound, Unavailable
from service_kit.grpc_status import from_status
from service_kit.settings import ServiceSettings
from tests.feature_svc.asking import Peer, entities, read
from tests.feature_svc.examples import at, definitions, delays, planes
from tests.fixtures import valkey_server

SETTINGS = ServiceSettings(service="features", service_token="token")
AA, B, C = ("AA", "N1", 7), ("B", "N2", 7), ("C", "N9", 9)


@dataclass
class Port:
    """A port and what it stands on."""

    address: str
    store: RedisOnlineStore
    reads: OnlineReads
    asked: list[int] = field(default_factory=list)
    loads: list[Callable[[], Any]] = field(default_factory=list)


class Counting:
    """A store that notes how many commands came at once."""

    def __init__(self, store: Any, asked: list[int]) -> None:
        self.project = store.project
        self._store = store
        self._asked = asked

    def read(self, commands: Sequence[Command]) -> Any:
        if commands:
            self._asked.append(len(commands))
        return self._store.read(commands)


@contextmanager
def port_on(url: str, project: str) -> Iterator[Port]:
    """A port whose definitions are the example; `loads` stands for SQL."""
    store, held = RedisOnlineStore(url, project), None
    loads: list[Callable[[], Any]] = [lambda: None]

    def load(known: int | None) -> tuple[int, Definitions | None]:
        loads[-1]()
        return 1, None if known == 1 else definitions()

    current = CurrentDefinitions(load)
    asked: list[int] = []
    memory = RememberedReplies(1 << 20, 60)
    held = store.held()
    made = FramePort(
        SETTINGS,
        "127.0.0.1:0",
        OnlineReads(SystemClock(), current, Counting(held, asked), memory),
        current,
    )
    made.start()
    try:
        reads = OnlineReads(SystemClock(), current, store, memory)
        yield Port(made.address, store, reads, asked, loads)
    finally:
        made.stop()
        held.close()
        store.close()


def fill(store: RedisOnlineStore) -> None:
    what = definitions()
    for view, table in (
        ("delays", delays(["AA", "B"], [1.5, None], [-3, 4], [1, 2])),
        ("planes", planes([("N1", 7, 180.0, "é", True, 0), ("N2", 7, None, "", False, 3)])),
    ):
        store.write(view, encode_rows(what, what.feature_views[view], table, store.project))


@pytest.fixture(params=["redis", "valkey"])
def port(request: pytest.FixtureRequest, project: str) -> Iterator[Port]:
    """A port with something to read, on either store."""
    with port_on(request.getfixturevalue(f"{request.param}_url"), project) as made:
        fill(made.store)
        yield made


@dataclass
class Part:
    """The part of a request."""

    rows: int
    entities: dict[str, list[Any]] = field(default_factory=dict)
    as_of_us: Sequence[int] = ()


@pytest.mark.parametrize("hours", [0, 7, 7.001])
def test_frames_say_what_calls_say(port: Port, hours: float) -> None:
    rows = [AA, B, C, AA]
    times = [micros(at(hours))] * len(rows)
    with Peer(port.address, SETTINGS) as peer:
        answer = peer.ask(read(5, *rows, as_of_us=times))[5]
    assert not answer.HasField("error")
    keys = to.keys_from_message(entities(*rows))
    columns = port.reads.read(Wanted("late", keys, times)).columns()
    call = features_pb2.GetOnlineFeaturesResponse(
        features=[to.column_to_message(column) for column in columns]
    )
    (found,) = columns_of_frame(answer, [Part(4)])
    assert [found] == columns_of_call(call, [Part(4)])
    assert list(found) == ["jet", "mean", "seats", "maker", "count"]
    assert found["maker"].values == ["é", None, None, "é"]
    mean = None if hours > 7 else 1.5
    assert found["mean"].values == [mean, None, None, mean]


def test_each_row_has_its_own_reference_time_and_0_is_now(port: Port) -> None:
    times = [micros(at(hours)) for hours in (7, 7.001)]
    with Peer(port.address, SETTINGS) as peer:
        answer = peer.ask(read(1, AA, AA, AA, as_of_us=[*times, 0]))[1]
    (columns,) = columns_of_frame(answer, [Part(3)])
    assert columns["mean"].values == [1.5, None, None]  # the example is of 2013
    assert columns["seats"].values == [180.0] * 3


def test_what_is_sent_together_is_one_trip_and_one_error_spoils_no_other(port: Port) -> None:
    with Peer(port.address, SETTINGS) as peer:
        peer.ask(read(1, AA))
        port.asked.clear()
        lame = read(4, AA)
        del lame.entities[2]
        uneven = read(5, AA, as_of_us=[1, 2])
        answers = peer.ask(
            read(2, AA), read(3, AA, service="featureServices/none"), lame, uneven, read(6, B, C)
        )
    assert port.asked == [6]
    assert [key for key, answer in answers.items() if not answer.HasField("error")] == [2, 6]
    missing, wrong, other = (from_status(answers[key].error) for key in (3, 4, 5))
    assert isinstance(missing, NotFound)
    assert (missing.reason, missing.field) == ("FEATURE_SERVICE_NOT_FOUND", "feature_service")
    assert isinstance(wrong, InvalidArgument)
    assert (wrong.reason, wrong.field) == ("MISSING_ENTITY_KEY", "entities.gate")
    assert (other.reason, other.field) == ("UNEVEN_COLUMNS", "as_of_us")


@pytest.mark.parametrize("name", ["late", "featureServices/", "x" * 3_000])
def test_what_is_no_name_is_refused(port: Port, name: str) -> None:
    with Peer(port.address, SETTINGS) as peer:
        error = from_status(peer.ask(read(1, AA, service=name))[1].error)
        assert isinstance(error, InvalidArgument)
        assert not peer.ask(read(2, AA))[2].HasField("error")


def test_a_peer_without_the_token_learns_nothing(port: Port) -> None:
    stranger = ServiceSettings(service="gateway", service_token="another")
    with Peer(port.address, stranger) as peer:
        assert peer.welcome.error_reason == "BAD_SERVICE_TOKEN"
        with pytest.raises(ConnectionError):
            peer.ask(read(1, AA))
    assert port.asked == []


def test_a_frame_that_is_no_message_ends_its_connection_and_no_other(port: Port) -> None:
    with Peer(port.address, SETTINGS) as peer, Peer(port.address, SETTINGS) as other:
        peer.send(b"\xff\xff\xff")
        with pytest.raises(ConnectionError):
            peer.receive()
        assert not other.ask(read(1, AA))[1].HasField("error")


def test_more_rows_than_may_wait_are_refused(port: Port) -> None:
    many = [AA] * 9_000
    release = threading.Event()
    with Peer(port.address, SETTINGS) as peer:
        peer.ask(read(1, AA))
        port.loads.append(lambda: release.wait(5) and None)
        time.sleep(1.1)  # the definitions are to be looked at again: that takes a while
        peer.send(*(read(key, *many).SerializeToString() for key in (2, 3)))
        assert 2 * len(many) > MOST_WAITING_ROWS
        refused = pb.ReadFeaturesResponse.FromString(peer.receive())
        release.set()
        answered = pb.ReadFeaturesResponse.FromString(peer.receive())
    assert (refused.id, from_status(refused.error).reason) == (3, "TOO_MANY_READS")
    assert answered.id == 2
    assert len(answered.numbers) == len(many) * 2 * 8


def test_definitions_are_looked_at_again_beside_the_port(port: Port) -> None:
    threads: list[str] = []
    with Peer(port.address, SETTINGS) as peer:
        peer.ask(read(1, AA))
        port.loads.append(lambda: threads.append(threading.current_thread().name))
        time.sleep(1.1)
        assert not peer.ask(read(2, AA))[2].HasField("error")
        peer.ask(read(3, AA))
    assert len(threads) == 1
    assert threads[0] != "frames"


def test_sql_that_was_never_there_is_a_typed_error(redis_url: str, project: str) -> None:
    def away() -> None:
        raise Unavailable("DATABASE_UNAVAILABLE", "away")

    with port_on(redis_url, project) as port, Peer(port.address, SETTINGS) as peer:
        port.loads.append(away)
        assert from_status(peer.ask(read(1, AA))[1].error).reason == "DATABASE_UNAVAILABLE"
        port.loads.pop()
        assert not peer.ask(read(2, AA))[2].HasField("error")


def test_a_store_that_hangs_costs_a_tenth_of_a_second(project: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with port_on(url, project) as port, Peer(port.address, SETTINGS) as peer:
            for number in (1, 2):
                began = time.monotonic()
                error = from_status(peer.ask(read(number, AA))[number].error)
                assert isinstance(error, Unavailable)
                assert error.reason == "ONLINE_STORE_UNAVAILABLE"
                assert time.monotonic() - began < 3 * READ_TIMEOUT_S


def test_a_store_that_ends_and_comes_back(project: str, tmp_path: Path) -> None:
    with valkey_server() as url, port_on(url, project) as port:
        fill(port.store)
        with Peer(port.address, SETTINGS) as peer, redis.Redis.from_url(url) as client:
            before = peer.ask(read(1, AA))[1]
            assert not before.HasField("error")
            # Its connection is ended while it rests: the next read notices nothing.
            client.client_kill_filter(_type="normal", skipme=True)
            assert not peer.ask(read(2, AA))[2].HasField("error")
            client.shutdown(nosave=True)
            # What was read before is answered from memory, and nothing else is.
            given = _remembered()
            both = peer.ask(read(3, AA), read(4, B))
            assert both[3].SerializeToString() == _numbered(before, 3)
            assert from_status(both[4].error).reason == "ONLINE_STORE_UNAVAILABLE"
            assert _remembered() > given


def _remembered() -> float:
    return metrics.REGISTRY.get_sample_value("modelyard_features_remembered_total") or 0.0


def _numbered(answer: Any, number: int) -> bytes:
    other = type(answer)()
    other.CopyFrom(answer)
    other.id, other.remembered = number, True
    return bytes(other.SerializeToString())


def test_many_connections_each_get_their_own(port: Port) -> None:
    wrong: list[Any] = []

    def ask(name: int) -> None:
        with Peer(port.address, SETTINGS) as peer:
            for number in range(100):
                row = (AA, B)[(name + number) % 2]
                (columns,) = columns_of_frame(peer.ask(read(number, row))[number], [Part(1)])
                if columns["count"].times != [micros(at(1 if row is AA else 2))]:
                    wrong.append((name, number))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
