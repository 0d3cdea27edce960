"""The compiled read plan: all that can be known of a read before its entities are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeAlias

from feature_svc.domain import Definitions, FeatureService, ValueType
from feature_svc.domain.online import layout
from feature_svc.domain.online.cells import Cells, Reply
from feature_svc.domain.online.found import KINDS, FeatureRows, Kind, Layout, Place, side_by_side
from service_kit.errors import InvalidArgument

MAX_ROWS = 10_000
_MICROSECOND = timedelta(microseconds=1)
_ORDER = tuple(Kind)

Keys: TypeAlias = Mapping[str, Sequence[str] | Sequence[int]]


class Command(NamedTuple):
    """Fields to read of one hash."""

    key: bytes
    fields: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """Views with the same join keys: they share a hash, so one command reads them all."""

    join_keys: tuple[str, ...]
    prefix: bytes
    suffix: bytes
    fields: tuple[bytes, ...]
    cells: Cells

    def key(self, values: Sequence[str | int]) -> bytes:
        return self.prefix + b"".join(map(layout.key_value, values)) + self.suffix


class Asked(NamedTuple):
    """A read under way: the commands, and which reply belongs to which row of which group."""

    commands: Sequence[Command]
    rows: int
    starts: Sequence[int]
    replies: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How to read a feature service: keys to ask with, and features made of the replies.

    Attributes:
        layout: What a row is.
    """

    key_types: Mapping[str, ValueType]
    layout: Layout
    _groups: tuple[_Group, ...]
    _order: tuple[int, ...]

    def ask(self, keys: Keys) -> Asked:
        """The commands for some rows; entities that appear in several rows are read once.

        Raises:
            InvalidArgument: A key column is missing, unknown, of another type or length.
        """
        rows = self._check(keys)
        commands: list[Command] = []
        starts: list[int] = []
        replies: list[list[int]] = []
        for group in self._groups:
            starts.append(len(commands))
            columns = [keys[key] for key in group.join_keys]
            seen: dict[tuple[str | int, ...], int] = {}
            replies.append([seen.setdefault(row, len(seen)) for row in zip(*columns, strict=True)])
            commands += [Command(group.key(row), group.fields) for row in seen]
        return Asked(commands, rows, starts, replies)

    def answer(self, asked: Asked, replies: Sequence[Reply], moments: Sequence[int]) -> FeatureRows:
        """The features of the rows, of one reply a command.

        Args:
            asked: What :meth:`ask` gave.
            replies: In the order of its commands.
            moments: When the values of each row must not have outlived their time to live,
                microseconds since the epoch.
        """
        ends = [*asked.starts[1:], len(replies)]
        parts = [
            group.cells.rows(replies[start:end], index, moments)
            for group, start, end, index in zip(
                self._groups, asked.starts, ends, asked.replies, strict=True
            )
        ]
        return side_by_side(parts, self.layout, self._order)

    def _check(self, keys: Keys) -> int:
        for name in keys:
            if name not in self.key_types:
                raise InvalidArgument(
                    "UNKNOWN_ENTITY_KEY", "the service has no such key", field="entities"
                )
        for name, kind in self.key_types.items():
            if name not in keys:
                raise InvalidArgument("MISSING_ENTITY_KEY", "is missing", field=f"entities.{name}")
            expected = int if kind is ValueType.INT64 else str
            if keys[name] and type(keys[name][0]) is not expected:
                raise InvalidArgument(
                    "WRONG_TYPE", f"must be of type {kind}", field=f"entities.{name}"
                )
        rows = len(next(iter(keys.values())))
        for name, values in keys.items():
            if len(values) != rows:
                raise InvalidArgument(
                    "UNEVEN_COLUMNS", "has another length", field=f"entities.{name}"
                )
        if rows > MAX_ROWS:
            raise InvalidArgument("TOO_MANY_ROWS", f"at most {MAX_ROWS} rows", field="entities")
        return rows


def compile_plan(definitions: Definitions, service: FeatureService, project: str) -> ReadPlan:
    """Compiles the read plan of a feature service."""
    by_keys: dict[tuple[str, ...], list[int]] = {}
    for at, ref in enumerate(service.features):
        view = definitions.feature_views[ref.view]
        keys = tuple(sorted(definitions.join_keys_of_view(view)))
        by_keys.setdefault(keys, []).append(at)
    ordered = [_by_kind(definitions, service, wanted) for wanted in by_keys.values()]
    groups = tuple(
        _group(definitions, service, keys, wanted, project)
        for keys, wanted in zip(by_keys, ordered, strict=True)
    )
    order = [at for wanted in ordered for at in wanted]
    types = definitions.key_types(service)
    return ReadPlan(
        {key: types[key] for key in definitions.join_keys(service)},
        Layout(_places([group.cells for group in groups], order)),
        groups,
        tuple(order.index(at) for at in range(len(order))),
    )


def _type_of(definitions: Definitions, service: FeatureService, at: int) -> ValueType:
    ref = service.features[at]
    features = definitions.feature_views[ref.view].features
    return next(each.type for each in features if each.name == ref.feature)


def _by_kind(definitions: Definitions, service: FeatureService, wanted: Sequence[int]) -> list[int]:
    # Numbers first, then integers, then texts: the cells of a kind are read together.
    return sorted(wanted, key=lambda at: _ORDER.index(KINDS[_type_of(definitions, service, at)]))


def _group(
    definitions: Definitions,
    service: FeatureService,
    keys: tuple[str, ...],
    wanted: Sequence[int],
    project: str,
) -> _Group:
    refs = [service.features[at] for at in wanted]
    types = [_type_of(definitions, service, at) for at in wanted]
    views = {view: at for at, view in enumerate(dict.fromkeys(ref.view for ref in refs))}
    counts = dict.fromkeys(Kind, 0)
    places = []
    for ref, kind in zip(refs, types, strict=True):
        places.append(Place(ref.feature, kind, counts[KINDS[kind]], views[ref.view]))
        counts[KINDS[kind]] += 1
    spans = [definitions.feature_views[view].ttl for view in views]
    ttls = tuple(None if span is None else span // _MICROSECOND for span in spans)
    cells = Cells(Layout(tuple(places)), counts[Kind.NUMBER], counts[Kind.INTEGER], ttls)
    fields = [layout.feature_field(ref.view, ref.feature) for ref in refs]
    fields += [layout.time_field(view) for view in views]
    return _Group(keys, layout.key_prefix(keys), project.encode(), tuple(fields), cells)


def _places(cells: Sequence[Cells], order: Sequence[int]) -> tuple[Place, ...]:
    """The places of all features, in the order of the service, once the groups lie side by side."""
    placed = []
    counts, views = dict.fromkeys(Kind, 0), 0
    for part in cells:
        places = part.layout.places
        placed += [
            place._replace(at=place.at + counts[place.kind], view=place.view + views)
            for place in places
        ]
        for place in places:
            counts[place.kind] += 1
        views += len(part.ttls)
    return tuple(place for _, place in sorted(zip(order, placed, strict=True)))
