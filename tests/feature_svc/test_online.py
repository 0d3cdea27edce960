"""The online store on a real Redis: plans, statuses, order of writes."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from feature_svc.domain import Definitions
from feature_svc.domain.online.found import FeatureColumn, Status
from feature_svc.domain.online.plan import Keys, compile_plan
from feature_svc.domain.online.rows import encode_rows
from feature_svc.online_store import READ_TIMEOUT_S, RedisOnlineStore
from feature_svc.service.reading import micros
from service_kit.errors import InvalidArgument, Unavailable
from tests.feature_svc.examples import at, definitions, delays, planes

PRESENT, NULL, NOT_FOUND, EXPIRED = Status
DEFINITIONS = definitions()


def write(store: RedisOnlineStore, view: str, table: Any) -> int:
    rows = encode_rows(DEFINITIONS, DEFINITIONS.feature_views[view], table, store.project)
    return store.write(view, rows)


def read(
    store: RedisOnlineStore, keys: Keys, hours: float, what: Definitions = DEFINITIONS
) -> dict[str, FeatureColumn]:
    plan = compile_plan(what, what.feature_services["late"], store.project)
    asked = plan.ask(keys)
    columns = plan.answer(
        asked, store.read(asked.commands), [micros(at(hours))] * asked.rows
    ).columns()
    return {each.name: each for each in columns}


def keys(*rows: tuple[str, str, int]) -> Keys:
    carriers, tails, gates = zip(*rows, strict=True)
    return {"carrier": carriers, "tail": tails, "gate": gates}


@pytest.fixture
def filled(online: RedisOnlineStore) -> RedisOnlineStore:
    write(online, "delays", delays(["AA", "B"], [1.5, None], [-3, 4], [1, 2]))
    write(online, "planes", planes([("N1", 7, 180.0, "é", True, 0), ("N2", 7, None, "", False, 3)]))
    return online


def test_values_come_back_in_the_order_of_the_service(filled: RedisOnlineStore) -> None:
    found = read(filled, keys(("AA", "N1", 7), ("B", "N2", 7), ("AA", "N2", 7)), 4)
    assert list(found) == ["jet", "mean", "seats", "maker", "count"]
    assert found["jet"].values == [True, False, False]
    assert found["mean"].values == [1.5, None, 1.5]
    assert found["seats"].values == [180.0, None, None]
    assert found["maker"].values == ["é", "", ""]
    assert found["count"].values == [-3, 4, -3]
    assert found["mean"].times == [micros(at(1)), micros(at(2)), micros(at(1))]


def test_every_value_says_how_it_could_be_had(filled: RedisOnlineStore) -> None:
    rows = keys(("AA", "N1", 7), ("B", "N1", 8), ("C", "N9", 7))
    found = read(filled, rows, 7)
    assert list(found["mean"].statuses) == [PRESENT, NULL, NOT_FOUND]
    assert list(found["seats"].statuses) == [PRESENT, NOT_FOUND, NOT_FOUND]
    later = read(filled, rows, 7.001)
    assert list(later["mean"].statuses) == [EXPIRED, NULL, NOT_FOUND]
    assert later["mean"].values == [None] * 3
    assert later["mean"].times[0] == micros(at(1))
    assert list(later["seats"].statuses) == [PRESENT, NOT_FOUND, NOT_FOUND]


def test_each_row_has_its_own_reference_time(filled: RedisOnlineStore) -> None:
    plan = compile_plan(DEFINITIONS, DEFINITIONS.feature_services["late"], filled.project)
    asked = plan.ask(keys(*[("AA", "N1", 7)] * 3))
    moments = [micros(at(hours)) for hours in (7, 7.001, 0)]
    columns = plan.answer(asked, filled.read(asked.commands), moments).columns()
    found = {each.name: each for each in columns}
    assert list(found["mean"].statuses) == [PRESENT, EXPIRED, PRESENT]
    assert found["mean"].values == [1.5, None, 1.5]
    assert list(found["seats"].statuses) == [PRESENT] * 3


def test_an_entity_is_read_once_however_many_rows_name_it(filled: RedisOnlineStore) -> None:
    plan = compile_plan(DEFINITIONS, DEFINITIONS.feature_services["late"], filled.project)
    asked = plan.ask(keys(*[("AA", "N1", 7)] * 50))
    assert len(asked.commands) == 2


def test_no_rows_give_no_rows(filled: RedisOnlineStore) -> None:
    found = read(filled, {"carrier": [], "tail": [], "gate": []}, 0)
    assert [(each.values, each.statuses) for each in found.values()] == [([], b"")] * 5


def test_an_older_row_never_goes_over_a_newer_one(online: RedisOnlineStore) -> None:
    assert write(online, "delays", delays(["AA"], [2.0], [0], [2])) == 1
    assert write(online, "delays", delays(["AA", "B"], [1.0, 1.0], [0, 0], [1, 1])) == 1
    assert read(online, keys(("AA", "N", 0)), 2)["mean"].values == [2.0]
    assert write(online, "delays", delays(["AA"], [3.0], [0], [2])) == 1
    assert read(online, keys(("AA", "N", 0)), 2)["mean"].values == [3.0]
    # A microsecond decides, and so does a second beyond the nanoseconds.
    micro = 1 / 3.6e9
    assert write(online, "delays", delays(["AA"], [4.0], [0], [2 - micro])) == 0
    assert write(online, "delays", delays(["AA"], [5.0], [0], [2 + micro])) == 1
    assert write(online, "delays", delays(["AA"], [6.0], [0], [2])) == 0
    assert online.newest("delays") == micros(at(2)) + 1
    assert online.newest("planes") is None


def test_rows_written_at_once_leave_the_newest(online: RedisOnlineStore) -> None:
    hours = list(range(200))
    random.Random(7).shuffle(hours)

    def some(mine: list[int]) -> None:
        for hour in mine:
            write(online, "delays", delays(["AA"], [float(hour)], [hour], [hour]))

    threads = [threading.Thread(target=some, args=(hours[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(online, keys(("AA", "N", 0)), 199)
    assert (found["mean"].values, found["count"].values) == ([199.0], [199])


@pytest.mark.parametrize(
    ("columns", "reason", "field"),
    [
        ({"carrier": ["AA"], "tail": ["N1"]}, "MISSING_ENTITY_KEY", "entities.gate"),
        (
            {"carrier": ["AA"], "tail": ["N1"], "gate": [1], "x": [1]},
            "UNKNOWN_ENTITY_KEY",
            "entities",
        ),
        ({"carrier": ["AA"], "tail": ["N1"], "gate": ["1"]}, "WRONG_TYPE", "entities.gate"),
        ({"carrier": [1], "tail": ["N1"], "gate": [1]}, "WRONG_TYPE", "entities.carrier"),
        ({"carrier": ["AA"], "tail": ["N1"], "gate": [1, 2]}, "UNEVEN_COLUMNS", "entities.gate"),
        (
            {"carrier": ["AA"] * 10_001, "tail": ["N1"] * 10_001, "gate": [1] * 10_001},
            "TOO_MANY_ROWS",
            "entities",
        ),
    ],
)
def test_wrong_keys_are_refused(columns: Keys, reason: str, field: str) -> None:
    plan = compile_plan(DEFINITIONS, DEFINITIONS.feature_services["late"], "p")
    with pytest.raises(InvalidArgument) as error:
        plan.ask(columns)
    assert (error.value.reason, error.value.field) == (reason, field)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a Redis that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_a_redis_that_hangs_costs_a_tenth_of_a_second(silent: str) -> None:
    store = RedisOnlineStore(silent, "p")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="ONLINE_STORE_UNAVAILABLE"):
        read(store, keys(("AA", "N1", 7)), 0)
    assert time.monotonic() - began < 3 * READ_TIMEOUT_S
    store.close()


def test_a_connection_whose_reply_was_not_read_is_not_used_again(
    filled: RedisOnlineStore,
) -> None:
    plan = compile_plan(DEFINITIONS, DEFINITIONS.feature_services["late"], filled.project)
    asked = plan.ask(keys(("AA", "N1", 7)))
    broken = type(asked.commands[0])(b"", ())
    with pytest.raises(Unavailable):
        filled.read([broken, *asked.commands])
    assert read(filled, keys(("AA", "N1", 7)), 4)["mean"].values == [1.5]
