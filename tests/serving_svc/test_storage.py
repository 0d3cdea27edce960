"""The record of serving on both databases."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from service_kit.database import migrate
from service_kit.errors import Conflict
from service_kit.migrations import schema_differences
from service_kit.paging import Page
from serving_svc.domain import Strategy, Variant
from serving_svc.storage import Base
from tests.serving_svc.world import V1, V2, World, key


@pytest.fixture
def on_sql(sql_engine: Engine) -> World:
    """A world on an empty database of each kind."""
    migrate(sql_engine, "serving_svc")
    return World(sql_engine)


def test_migrations_make_the_tables_of_the_models(sql_engine: Engine) -> None:
    migrate(sql_engine, "serving_svc")
    assert schema_differences(sql_engine, Base.metadata) == []


def test_a_whole_story_is_kept_as_it_was(on_sql: World) -> None:
    on_sql.create(
        default_outputs=(0.5,),
        routing_key="tail",
        routing_header="x-tenant",
        cache_rows=50,
        last_answer_rows=7,
        last_answer_age=timedelta(minutes=5),
        deadline=timedelta(milliseconds=150),
    )
    on_sql.deploy(V1)
    strategy = Strategy(
        steps=(12.5, 100.0), step_min_samples=5, interval=timedelta(milliseconds=50), margin=0.01
    )
    on_sql.begin(V2, strategy)
    on_sql.engine.run()
    endpoint = on_sql.endpoints.get_endpoint("late").endpoint
    assert (endpoint.default_outputs, endpoint.routing_key) == ((0.5,), "tail")
    assert (endpoint.routing_header, endpoint.cache_rows) == ("x-tenant", 50)
    assert (endpoint.last_answer_rows, endpoint.last_answer_age) == (7, timedelta(minutes=5))
    assert endpoint.deadline == timedelta(milliseconds=150)
    rollout = on_sql.rollout()
    assert (rollout.strategy.steps, rollout.strategy.margin) == ((12.5, 100.0), 0.01)
    assert [event.decision for event in rollout.events][-1] == "promoted"
    found, token = on_sql.rollouts.list_rollouts("late", Page(1))
    assert ([each.rollout_id for each in found], token) == ([rollout.rollout_id], "")
    first, token = on_sql.endpoints.list_tables("late", Page(2))
    rest, _ = on_sql.endpoints.list_tables("late", Page(9, token))
    assert [table.generation for table in first + rest] == [4, 3, 2, 1]
    on_sql.endpoints.delete_endpoint("late", "me", key())


def test_of_many_changes_at_once_one_wins(on_sql: World) -> None:
    on_sql.create()
    on_sql.deploy(V1)
    outcomes: list[str] = []

    def change() -> None:
        try:
            all_of_it = [Variant("", V1, 100.0)]
            on_sql.endpoints.update_traffic("late", 1, all_of_it, {}, ("me", ""), key())
            outcomes.append("won")
        except Conflict as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=change) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["STALE_GENERATION"] * 5 + ["won"]


def test_the_database_itself_refuses_a_second_active_rollout(on_sql: World) -> None:
    from dataclasses import replace

    on_sql.create()
    on_sql.deploy(V1)
    rollout = on_sql.begin(V2)
    with pytest.raises(IntegrityError), on_sql.store.write() as unit:
        unit.add_rollout(replace(rollout, rollout_id="another"))
