"""Feast itself: it loads what we read, reads what we write, and joins as we do."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity as FeastEntity
from feast import FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String

from feature_svc.domain import latest_rows, point_in_time_rows
from feature_svc.domain.joining import taken
from feature_svc.feast_store import FeastStore, _connection_string
from feature_svc.online_store import RedisOnlineStore
from service_kit.errors import Internal, Unavailable
from tests.feature_svc.examples import at, definitions, delays, planes, stamps
from tests.feature_svc.test_online import keys, read, write

DEFINITIONS = definitions()


@pytest.fixture
def feast(redis_url: str, project: str, tmp_path: Path) -> FeastStore:
    return FeastStore(tmp_path / "feast", project, redis_url)


def load(feast: FeastStore, view: str, table: Any) -> int:
    return feast.load(DEFINITIONS, view, table, at(0), at(100), 10.0)


def stock(feast: FeastStore) -> FeatureStore:
    """A client that knows nothing of us but the registry and Redis."""
    config = feast.config()
    return FeatureStore(
        config=RepoConfig(
            project=config.project,
            provider="local",
            registry=config.registry.path,
            online_store={
                "type": "redis",
                "connection_string": config.online_store.connection_string,
            },
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )


def test_what_feast_loads_and_what_we_write_is_the_same_to_both(
    feast: FeastStore, online: RedisOnlineStore
) -> None:
    chance = random.Random(3)

    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.8 else None

    numbers = range(30)
    means, counts = [maybe(n / 3) for n in numbers], [maybe(-n) for n in numbers]
    assert load(feast, "delays", delays([f"c{n}" for n in numbers], means, counts, numbers)) == 30
    rows = [(f"N{n}", n % 3, maybe(n / 7), maybe(f"é{n}"), maybe(n % 2 == 0), n) for n in numbers]
    assert load(feast, "planes", planes(rows)) == 30
    write(online, "delays", delays(["c3", "c40"], [9.5, None], [1, None], [50, 50]))
    wanted = [(f"c{n}", f"N{n}", n % 3) for n in [*range(32), 40]]
    ours = read(online, keys(*wanted), 0)
    theirs = stock(feast).get_online_features(
        features=[f"{ref.view}:{ref.feature}" for ref in _service().features],
        entity_rows=[{"carrier": c, "tail": t, "gate": g} for c, t, g in wanted],
    ).to_dict()  # fmt: skip
    for name, column in ours.items():
        expected = [
            None if each is None or (isinstance(each, float) and math.isnan(each)) else each
            for each in theirs[name]
        ]
        assert column.values == expected, name
    assert ours["mean"].values[-1] is None
    assert ours["mean"].values[3] == 9.5


def _service() -> Any:
    return DEFINITIONS.feature_services["late"]


def test_a_load_leaves_newer_rows_alone(feast: FeastStore, online: RedisOnlineStore) -> None:
    write(online, "delays", delays(["AA"], [1.0], [1], [50]))
    assert load(feast, "delays", delays(["AA", "B"], [2.0, 2.0], [2, 2], [49, 49])) == 1
    assert read(online, keys(("AA", "N", 0), ("B", "N", 0)), 50)["mean"].values == [1.0, 2.0]
    assert load(feast, "delays", delays(["AA"], [3.0], [3], [50])) == 1
    assert read(online, keys(("AA", "N", 0)), 50)["mean"].values == [3.0]


def test_definitions_may_change_between_loads(feast: FeastStore, online: RedisOnlineStore) -> None:
    load(feast, "delays", delays(["AA"], [1.0], [1], [1]))
    view = DEFINITIONS.feature_views["delays"]
    views = {**DEFINITIONS.feature_views, "delays": replace(view, features=view.features[:1])}
    fewer = replace(DEFINITIONS, feature_views=views, feature_services={})
    table = delays(["AA"], [2.0], [2], [2]).drop_columns(["count"])
    assert feast.load(fewer, "delays", table, at(0), at(9), 10.0) == 1
    found = read(online, keys(("AA", "N", 0)), 2)
    assert (found["mean"].values, found["count"].values) == ([2.0], [1])


def test_a_load_that_fails_says_so_and_the_next_one_works(
    feast: FeastStore, online: RedisOnlineStore, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Internal, match="MATERIALIZATION_FAILED"):
        load(feast, "delays", delays(["AA"], [1.0], [1], [1]).drop_columns(["known"]))
    assert "materialization failed" in caplog.text
    assert load(feast, "delays", delays(["AA"], [1.0], [1], [1])) == 1


def test_a_load_waits_for_another_no_longer_than_its_caller(feast: FeastStore) -> None:
    with feast._lock, pytest.raises(Unavailable, match="MATERIALIZING"):
        feast.load(DEFINITIONS, "delays", delays(["AA"], [1.0], [1], [1]), at(0), at(1), 0.01)


def test_the_address_of_redis_is_told_as_feast_wants_it() -> None:
    assert _connection_string("rediss://me:p%20w@host:1/3") == (
        "host:1,db=3,socket_timeout=5,username=me,password=p w,ssl=true"
    )
    assert _connection_string("redis://host") == "host:6379,db=0,socket_timeout=5"


@pytest.fixture
def historical(tmp_path: Path) -> Iterator[tuple[Any, Any, FeatureStore]]:
    """Labels, a history without ties, and a stock Feast store over that history."""
    chance = random.Random(11)
    hours = chance.sample(range(400), 300)
    history = delays(
        [f"c{chance.randrange(9)}" for _ in hours],
        [float(n) for n in range(300)],
        [None] * 300,
        hours,
    ).drop_columns(["count"])
    pq.write_table(history, tmp_path / "delays.parquet")
    labels = pa.table(
        {
            "carrier": [f"c{chance.randrange(10)}" for _ in range(200)],
            "row": list(range(200)),
            "event_timestamp": stamps([chance.randrange(450) for _ in range(200)]),
        }
    )
    entity = FeastEntity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
    config = RepoConfig(
        project="p",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    views = [
        FeatureView(
            name=name,
            entities=[entity],
            schema=[Field(name="carrier", dtype=String), Field(name="mean", dtype=Float64)],
            source=FileSource(
                name=name, path=str(tmp_path / "delays.parquet"), timestamp_field="known"
            ),
            ttl=ttl,
        )
        for name, ttl in (("ever", timedelta()), ("day", timedelta(hours=24)))
    ]
    store.apply([entity, *views])
    yield labels, history, store
    # Dask keeps a thread pool that a test must not leave behind.
    assert threading.active_count() < 200


@pytest.mark.parametrize(("view", "ttl"), [("ever", None), ("day", timedelta(hours=24))])
def test_the_join_agrees_with_feast(
    historical: tuple[Any, Any, FeatureStore], view: str, ttl: timedelta | None
) -> None:
    labels, history, store = historical
    rows = point_in_time_rows(
        labels,
        history,
        keys=["carrier"],
        label_time="event_timestamp",
        history_time="known",
        ttl=ttl,
    )
    ours = dict(enumerate(taken(history.column("mean"), rows).to_pylist()))
    job = store.get_historical_features(labels.to_pandas(), features=[f"{view}:mean"])
    frame = job.to_df()
    theirs = {
        row: None if math.isnan(mean) else mean
        for row, mean in zip(frame["row"], frame["mean"], strict=True)
    }
    assert all(ours[row] == mean for row, mean in theirs.items())
    # Feast's local store leaves out labels: all but one of each entity and time, and those of an
    # entity whose values have all outlived their time to live.
    entities = [tuple(each.values()) for each in labels.drop_columns(["row"]).to_pylist()]
    means = {entities[row]: mean for row, mean in theirs.items()}
    assert all(ours[row] == means.get(each) for row, each in enumerate(entities))
    assert len(theirs) < len(ours)
    assert sum(each is not None for each in ours.values()) > 30


def test_the_latest_rows_agree_with_feast_where_no_times_are_equal(
    historical: tuple[Any, Any, FeatureStore],
) -> None:
    _, history, _ = historical
    frame = history.to_pandas().sort_values("known").drop_duplicates("carrier", keep="last")
    ours = history.take(pa.array(latest_rows(history, keys=["carrier"], time="known")))
    assert sorted(ours["mean"].to_pylist()) == sorted(frame["mean"])
