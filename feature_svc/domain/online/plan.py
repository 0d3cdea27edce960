"""The compiled read plan: all that can be known of a read before its entities are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import TypeAlias

from feature_svc.domain import Definitions, FeatureService, FeatureView, ValueType
from feature_svc.domain.online import layout
from service_kit.errors import InvalidArgument

MAX_ROWS = 10_000
_MICROSECOND = timedelta(microseconds=1)

Value: TypeAlias = float | int | str | None
Keys: TypeAlias = Mapping[str, Sequence[str] | Sequence[int]]
Reply: TypeAlias = Sequence[bytes | None]
_Cell: TypeAlias = tuple[Value, int, int]


class Status(IntEnum):
    """Whether a value could be had; the numbers of `modelyard.data.v1.ValueStatus`."""

    PRESENT = 1
    NULL = 2
    NOT_FOUND = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """A feature of some rows.

    Attributes:
        values: One a row, None where its status is not PRESENT.
        statuses: One byte a row.
        times: When each value became known, microseconds since the epoch, 0 when unknown.
    """

    name: str
    type: ValueType
    values: list[Value]
    statuses: bytes
    times: list[int]


@dataclass(frozen=True, slots=True)
class Command:
    """Fields to read of one hash."""

    key: bytes
    fields: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a feature is found in the reply of its group, and how long it holds."""

    name: str
    type: ValueType
    value_at: int
    time_at: int
    ttl: int | None
    decode: Callable[[bytes], Value]


@dataclass(frozen=True, slots=True)
class _Group:
    """Views with the same join keys: they share a hash, so one command reads them all."""

    join_keys: tuple[str, ...]
    prefix: bytes
    suffix: bytes
    fields: tuple[bytes, ...]
    slots: tuple[tuple[int, _Slot], ...]

    def key(self, values: Sequence[str | int]) -> bytes:
        return self.prefix + b"".join(map(layout.key_value, values)) + self.suffix


@dataclass(frozen=True, slots=True)
class Asked:
    """A read under way: the commands, and which reply belongs to which row of which group."""

    commands: tuple[Command, ...]
    rows: int
    _starts: tuple[int, ...]
    _replies: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How to read a feature service: keys to ask with, and columns made of the replies."""

    key_types: Mapping[str, ValueType]
    _groups: tuple[_Group, ...]
    _width: int

    def ask(self, keys: Keys) -> Asked:
        """The commands for some rows; entities that appear in several rows are read once.

        Raises:
            InvalidArgument: A key column is missing, unknown, of another type or length.
        """
        rows = self._check(keys)
        commands: list[Command] = []
        starts, replies = [], []
        for group in self._groups:
            starts.append(len(commands))
            columns = [keys[key] for key in group.join_keys]
            seen: dict[tuple[str | int, ...], int] = {}
            replies.append(
                tuple(seen.setdefault(row, len(seen)) for row in zip(*columns, strict=True))
            )
            commands += [Command(group.key(row), group.fields) for row in seen]
        return Asked(tuple(commands), rows, tuple(starts), tuple(replies))

    def answer(
        self, asked: Asked, replies: Sequence[Reply], moments: Sequence[int]
    ) -> list[FeatureColumn]:
        """The columns of the service, in its order, of one reply a command.

        Args:
            asked: What :meth:`ask` gave.
            replies: In the order of its commands.
            moments: When the values of each row must not have outlived their time to live,
                microseconds since the epoch.
        """
        columns: list[FeatureColumn | None] = [None] * self._width
        for group, start, index in zip(self._groups, asked._starts, asked._replies, strict=True):  # noqa: SLF001
            found = replies[start : start + max(index, default=-1) + 1]
            for at, slot in group.slots:
                columns[at] = _column(slot, found, index, moments)
        return [column for column in columns if column is not None]

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


def _column(
    slot: _Slot, replies: Sequence[Reply], index: Sequence[int], moments: Sequence[int]
) -> FeatureColumn:
    cells = [_cell(slot, reply) for reply in replies]
    if slot.ttl is None:
        rows = [cells[at] for at in index]
    else:
        rows = [
            _fresh(cells[at], moment - slot.ttl) for at, moment in zip(index, moments, strict=True)
        ]
    return FeatureColumn(
        slot.name,
        slot.type,
        [value for value, _, _ in rows],
        bytes([status for _, status, _ in rows]),
        [time for _, _, time in rows],
    )


def _cell(slot: _Slot, reply: Reply) -> _Cell:
    stamp, raw = reply[slot.time_at], reply[slot.value_at]
    if stamp is None:
        return None, Status.NOT_FOUND, 0
    value = None if raw is None else slot.decode(raw)
    return value, Status.NULL if value is None else Status.PRESENT, layout.decode_time(stamp)


def _fresh(cell: _Cell, oldest: int) -> _Cell:
    _, status, time = cell
    if time >= oldest or status == Status.NOT_FOUND:
        return cell
    return None, Status.EXPIRED, time


def compile_plan(definitions: Definitions, service: FeatureService, project: str) -> ReadPlan:
    """Compiles the read plan of a feature service."""
    by_keys: dict[tuple[str, ...], list[int]] = {}
    for at, ref in enumerate(service.features):
        view = definitions.feature_views[ref.view]
        keys = tuple(sorted(definitions.join_keys_of_view(view)))
        by_keys.setdefault(keys, []).append(at)
    groups = tuple(
        _group(definitions, service, keys, wanted, project) for keys, wanted in by_keys.items()
    )
    types = definitions.key_types(service)
    ordered = {key: types[key] for key in definitions.join_keys(service)}
    return ReadPlan(ordered, groups, len(service.features))


def _group(
    definitions: Definitions,
    service: FeatureService,
    keys: tuple[str, ...],
    wanted: Sequence[int],
    project: str,
) -> _Group:
    refs = [service.features[at] for at in wanted]
    fields = [layout.feature_field(ref.view, ref.feature) for ref in refs]
    stamps = {view: len(fields) + at for at, view in enumerate(dict.fromkeys(r.view for r in refs))}
    fields += [layout.time_field(view) for view in stamps]
    slots = []
    for position, (at, ref) in enumerate(zip(wanted, refs, strict=True)):
        view = definitions.feature_views[ref.view]
        slots.append((at, _slot(view, ref.feature, position, stamps[ref.view])))
    return _Group(keys, layout.key_prefix(keys), project.encode(), tuple(fields), tuple(slots))


def _slot(view: FeatureView, name: str, value_at: int, time_at: int) -> _Slot:
    kind = next(each.type for each in view.features if each.name == name)
    ttl = None if view.ttl is None else view.ttl // _MICROSECOND
    return _Slot(name, kind, value_at, time_at, ttl, layout.DECODERS[kind])
