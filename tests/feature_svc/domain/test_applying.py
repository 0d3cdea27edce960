"""Applying definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.domain import (
    Definitions,
    Entity,
    FeatureRef,
    FeatureService,
    Field,
    Proposal,
    ValueType,
    apply,
    definitions_hash,
    documents,
    service_hash,
)
from service_kit.errors import FailedPrecondition, InvalidArgument
from tests.feature_svc.examples import D, N, S, T, definitions, fields, proposal


def test_everything_is_created_then_nothing_changes() -> None:
    first = apply(Definitions(), proposal())
    assert first.changes == (
        "created entities/carrier",
        "created entities/plane",
        "created entities/gate",
        "created dataSources/flights",
        "created dataSources/delays",
        "created dataSources/planes",
        "created featureViews/delays",
        "created featureViews/planes",
        "created featureServices/late",
    )
    again = apply(first.definitions, proposal())
    assert again.changes == ()
    assert definitions_hash(again.definitions) == definitions_hash(first.definitions)


def test_a_part_can_be_changed_alone() -> None:
    current = definitions()
    view = replace(current.feature_views["delays"], ttl=timedelta(hours=1))
    applied = apply(current, Proposal(feature_views=(view,)))
    assert applied.changes == ("changed featureViews/delays",)
    assert applied.definitions.feature_services == current.feature_services


def test_the_hash_of_a_service_is_of_what_decides_its_values() -> None:
    current = definitions()
    service = current.feature_services["late"]
    view = current.feature_views["delays"]

    def changed(**changes: Any) -> str:
        views = Proposal(feature_views=(replace(view, **changes),))
        return service_hash(apply(current, views).definitions, service)

    before = service_hash(current, service)
    assert changed(owner="someone", description="words") == before
    assert changed(ttl=timedelta(hours=1)) != before


def test_join_keys_come_in_order_of_first_mention() -> None:
    current = definitions()
    assert current.join_keys(current.feature_services["late"]) == ("tail", "gate", "carrier")


def _view(**changes: Any) -> Callable[[Proposal], Proposal]:
    def change(whole: Proposal) -> Proposal:
        first, *others = whole.feature_views
        return replace(whole, feature_views=(replace(first, **changes), *others))

    return change


def _source(**changes: Any) -> Callable[[Proposal], Proposal]:
    def change(whole: Proposal) -> Proposal:
        first, *others = whole.data_sources
        return replace(whole, data_sources=(replace(first, **changes), *others))

    return change


def _service(*refs: FeatureRef) -> Callable[[Proposal], Proposal]:
    return lambda whole: replace(whole, feature_services=(FeatureService("late", refs),))


def _entity(**changes: Any) -> Callable[[Proposal], Proposal]:
    def change(whole: Proposal) -> Proposal:
        first, *others = whole.entities
        return replace(whole, entities=(replace(first, **changes), *others))

    return change


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        (_entity(type=D), "WRONG_TYPE", "entities[0].type"),
        (_entity(join_key="a b"), "INVALID_NAME", "entities[0].join_key"),
        (_entity(id="Carrier"), "INVALID_ID", "entities[0].name"),
        (_entity(id="plane"), "DUPLICATE_NAME", "entities[1].name"),
        (_source(timestamp_field="late"), "UNKNOWN_COLUMN", "data_sources[0].timestamp_field"),
        (_source(fields=()), "MISSING", "data_sources[0].fields"),
        (
            _source(fields=fields(departed=T) * 2),
            "DUPLICATE_NAME",
            "data_sources[0].fields[1].name",
        ),
        (_view(entities=()), "MISSING", "feature_views[0].entities"),
        (_view(entities=("nobody",)), "UNKNOWN_REFERENCE", "feature_views[0].entities[0]"),
        (_view(entities=("carrier",) * 2), "DUPLICATE_NAME", "feature_views[0].entities[1]"),
        (_view(entities=("plane",)), "UNKNOWN_COLUMN", "feature_views[0].entities[0]"),
        (_view(data_source="nothing"), "UNKNOWN_REFERENCE", "feature_views[0].data_source"),
        (_view(features=()), "MISSING", "feature_views[0].features"),
        (_view(features=fields(nope=D)), "UNKNOWN_COLUMN", "feature_views[0].features[0].name"),
        (_view(features=fields(mean=N)), "WRONG_TYPE", "feature_views[0].features[0].type"),
        (_view(features=fields(known=T)), "WRONG_TYPE", "feature_views[0].features[0].type"),
        (_view(features=fields(carrier=S)), "DUPLICATE_NAME", "feature_views[0].features[0].name"),
        (_view(ttl=timedelta()), "OUT_OF_RANGE", "feature_views[0].ttl"),
        (
            _view(freshness_sla=timedelta(seconds=-1)),
            "OUT_OF_RANGE",
            "feature_views[0].freshness_sla",
        ),
        (_service(), "MISSING", "feature_services[0].features"),
        (
            _service(FeatureRef("nothing", "mean")),
            "UNKNOWN_REFERENCE",
            "feature_services[0].features[0]",
        ),
        (
            _service(FeatureRef("delays", "mean"), FeatureRef("delays", "nope")),
            "UNKNOWN_REFERENCE",
            "feature_services[0].features[1]",
        ),
        (
            _service(FeatureRef("delays", "mean"), FeatureRef("delays", "mean")),
            "DUPLICATE_NAME",
            "feature_services[0].features[1]",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(
    change: Callable[[Proposal], Proposal], reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        apply(Definitions(), change(proposal()))
    assert (error.value.reason, error.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        (
            Proposal(entities=(Entity("carrier", "airline", S),)),
            "ENTITY_IN_USE",
            "entities[0].join_key",
        ),
        (
            _source(fields=fields(carrier=S, departed=T))(
                Proposal(data_sources=proposal().data_sources[:1])
            ),
            "COLUMN_CHANGED",
            "data_sources[0].fields",
        ),
        (
            _view(features=fields(count=N))(Proposal(feature_views=proposal().feature_views[:1])),
            "FEATURE_IN_USE",
            "feature_views[0].features",
        ),
    ],
)
def test_what_would_break_what_is_in_force_is_refused(
    change: Proposal, reason: str, field: str
) -> None:
    with pytest.raises(FailedPrecondition) as error:
        apply(definitions(), change)
    assert (error.value.reason, error.value.field) == (reason, field)


def test_a_source_may_gain_columns() -> None:
    current = definitions()
    source = current.data_sources["delays"]
    wider = replace(source, fields=(*source.fields, Field("median", D)))
    assert apply(current, Proposal(data_sources=(wider,))).changes == (
        "changed dataSources/delays",
    )


@given(
    st.timedeltas(timedelta(microseconds=1), timedelta(days=10_000)) | st.none(),
    st.text(),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
)
def test_a_document_says_all_of_a_definition(
    ttl: timedelta | None, words: str, tags: dict[str, str]
) -> None:
    current = definitions()
    column = Field("mean", ValueType.DOUBLE, words, tags)
    view = replace(current.feature_views["delays"], ttl=ttl, description=words, features=(column,))
    assert documents.feature_view(documents.to_document(view)) == view
    for source in current.data_sources.values():
        assert documents.data_source(documents.to_document(source)) == source
    for service in current.feature_services.values():
        assert documents.feature_service(documents.to_document(service)) == service
