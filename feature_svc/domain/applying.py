"""Applying definitions: what may be said, what fits what is there, and what changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from feature_svc.domain import checking
from feature_svc.domain.definitions import (
    DataSource,
    Definitions,
    Entity,
    FeatureService,
    FeatureView,
)
from service_kit.errors import InvalidArgument
from service_kit.names import check_id


class Named(Protocol):
    """Whatever has an id."""

    @property
    def id(self) -> str:
        """Its id."""
        ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Definitions that someone wants applied, in the order of the request."""

    entities: tuple[Entity, ...] = ()
    data_sources: tuple[DataSource, ...] = ()
    feature_views: tuple[FeatureView, ...] = ()
    feature_services: tuple[FeatureService, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """Definitions after a proposal, with a line for each change."""

    definitions: Definitions
    changes: tuple[str, ...]


def apply(current: Definitions, proposal: Proposal) -> Applied:
    """Puts a proposal on top of what is in force; nothing is ever taken away.

    Raises:
        InvalidArgument: A definition is wrong; `field` is its path in the request.
        FailedPrecondition: It does not fit history or other definitions that are in force.
    """
    merged = Definitions(
        entities=_merged(current.entities, proposal.entities, "entities"),
        data_sources=_merged(current.data_sources, proposal.data_sources, "data_sources"),
        feature_views=_merged(current.feature_views, proposal.feature_views, "feature_views"),
        feature_services=_merged(
            current.feature_services, proposal.feature_services, "feature_services"
        ),
    )
    for at, entity in enumerate(proposal.entities):
        checking.check_entity(f"entities[{at}]", entity, current)
    for at, source in enumerate(proposal.data_sources):
        checking.check_source(f"data_sources[{at}]", source, current)
    for at, view in enumerate(proposal.feature_views):
        checking.check_view(f"feature_views[{at}]", view, merged)
    for at, service in enumerate(proposal.feature_services):
        checking.check_service(f"feature_services[{at}]", service, merged)
    proposed = {service.id for service in proposal.feature_services}
    checking.check_others(merged, proposed, [view.id for view in proposal.feature_views])
    return Applied(merged, tuple(_changes(current, merged)))


def _merged(current: Mapping[str, T], proposed: Sequence[T], field: str) -> dict[str, T]:
    seen: set[str] = set()
    for at, each in enumerate(proposed):
        check_id(each.id, f"{field}[{at}].name")
        if each.id in seen:
            raise InvalidArgument(
                "DUPLICATE_NAME", "is defined twice in the request", field=f"{field}[{at}].name"
            )
        seen.add(each.id)
    return {**current, **{each.id: each for each in proposed}}


def _changes(before: Definitions, after: Definitions) -> Iterator[str]:
    yield from _lines("entities", before.entities, after.entities)
    yield from _lines("dataSources", before.data_sources, after.data_sources)
    yield from _lines("featureViews", before.feature_views, after.feature_views)
    yield from _lines("featureServices", before.feature_services, after.feature_services)


def _lines(kind: str, before: Mapping[str, T], after: Mapping[str, T]) -> Iterator[str]:
    for id_, each in after.items():
        if id_ not in before:
            yield f"created {kind}/{id_}"
        elif before[id_] != each:
            yield f"changed {kind}/{id_}"
