"""Makes the inputs of a variant: checks, features, matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.dataplane.ask import Ask, Prepared, rows_of
from gateway.dataplane.feature_wire import NOT_FOUND, Entities, FeatureColumn, FeatureColumns
from gateway.dataplane.features import FeatureReader
from gateway.dataplane.inputs import (
    InputField,
    collect,
    encode_rows,
    plain_inputs,
)
from gateway.dataplane.routing import Variant
from gateway.problems import Violations
from service_kit.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)


class EntityKeys(Protocol):
    """Which entity keys a looked-up feature depends on."""

    async def of_feature(self, service: str, feature: str) -> tuple[str, ...]:
        """The keys; empty when that can't be found out now."""
        ...


class Preparer:
    """Makes inputs.

    Args:
        reader: The online store.
        keys: For naming the key of an unknown entity.
    """

    def __init__(self, reader: FeatureReader, keys: EntityKeys) -> None:
        self._reader = reader
        self._keys = keys

    async def prepare(
        self,
        variant: Variant,
        ask: Ask,
        rows: list[int],
        event_times_us: list[int] | None,
        deadline: float,
        reuse: Prepared | None = None,
    ) -> Prepared:
        """The inputs of a variant for some rows of a request.

        Args:
            event_times_us: Reference time of each of these rows; now when absent.
            reuse: Inputs made for another variant and the same rows.

        Raises:
            InvalidArgument: The caller gave something wrong; all of it is named.
            NotFound: `ENTITY_NOT_FOUND`.
            FailedPrecondition: `FEATURE_MISSING`.
            Unavailable: The store does not answer.
        """
        prepared = given_inputs(variant, ask, rows)
        needs = needs_of(variant, ask, prepared, event_times_us)
        if needs is None:
            return prepared
        if reuse is not None and reuse.feature_service == needs.service:
            features = reuse.features or {}
        else:
            features = await self._reader.read(*needs, deadline)
        gap = add_features(variant, prepared, features, len(rows))
        if gap is not None and prepared.remembered:
            # It may be there by now, or have been written anew: something else is to stand in.
            raise Unavailable("ONLINE_STORE_UNAVAILABLE", "the online store does not answer")
        if gap is not None:
            raise await self._missing(variant, gap, features, ask, rows)
        return prepared

    async def _missing(
        self,
        variant: Variant,
        gap: Gap,
        features: FeatureColumns,
        ask: Ask,
        rows: list[int],
    ) -> DomainError:
        name, row = gap.field.name, rows[gap.at]
        column = features[name]
        if not column.statuses or column.statuses[gap.at] != NOT_FOUND:
            return FailedPrecondition(
                "FEATURE_MISSING",
                "a required feature has no fresh value",
                field=ask.where(row, name),
                feature=name,
            )
        plan = variant.plan
        keys = plan.entity_keys
        if len(keys) > 1:
            keys = await self._keys.of_feature(plan.feature_service, name) or keys
        return NotFound(
            "ENTITY_NOT_FOUND",
            "the feature store knows no such entity",
            field=ask.where(row, keys[0]),
            feature=name,
            entity_keys=",".join(keys),
        )


class Needs(NamedTuple):
    """What inputs need of the online store, as `FeatureReader.ask` wants it.

    Attributes:
        entities: Columns of keys.
        as_of_us: Reference time of each row; now when absent.
    """

    service: str
    entities: Entities
    as_of_us: Sequence[int] | None


class Gap(NamedTuple):
    """A required feature that the store does not have.

    Attributes:
        at: Place of the row that lacks it.
    """

    field: InputField
    at: int


def needs_of(
    variant: Variant, ask: Ask, prepared: Prepared, event_times_us: Sequence[int] | None
) -> Needs | None:
    """What is still to be looked up for inputs as `given_inputs` made them, if anything."""
    plan = variant.plan
    if not plan.looked_up or ask.matrix is not None:
        return None
    entities = {key: prepared.columns[key] for key in plan.entity_keys}
    return Needs(plan.feature_service, entities, event_times_us)


def add_features(
    variant: Variant, prepared: Prepared, features: FeatureColumns, rows: int
) -> Gap | None:
    """Complete inputs with what was looked up; gives the first gap, and no matrix, if there is one.

    Raises:
        Unavailable: The store gave something else than the variant's inputs.
    """
    plan = variant.plan
    prepared.features, prepared.feature_service = features, plan.feature_service
    gap = None
    for field in plan.looked_up:
        column = features.get(field.name)
        if column is None:
            raise Unavailable("FEATURE_UNKNOWN", "the feature service lacks an input")
        prepared.remembered |= column.remembered
        values = prepared.columns[field.name] = _typed(field, column)
        if column.times:
            prepared.times_us[field.name] = column.times
        if field.required and gap is None:
            gap = _gap(field, values)
    if gap is None:
        try:
            prepared.matrix = encode_rows(plan, prepared.columns, rows)
        except OverflowError as error:
            raise Unavailable(
                "FEATURE_OUT_OF_RANGE", "a feature is too large for a 32-bit float"
            ) from error
    return gap


def _gap(field: InputField, values: Sequence[Any]) -> Gap | None:
    for at, value in enumerate(values):
        if value is None or value != value:
            return Gap(field, at)
    return None


def given_inputs(variant: Variant, ask: Ask, rows: list[int]) -> Prepared:
    """The inputs of a variant as far as the caller gives them: all, when nothing is looked up.

    Raises:
        InvalidArgument: The caller gave something wrong; all of it is named.
    """
    if ask.matrix is not None:
        return _encoded_by_caller(variant, ask.matrix, rows, len(ask.instances))
    plan = variant.plan
    found: list[InvalidArgument] = []
    instances = rows_of(ask.instances, rows)
    plain = plain_inputs(plan, instances)
    if plain is not None:
        return Prepared({}, plain[1], instances=instances, values=plain[0])
    columns = collect(plan, instances, rows, ask.where, found)
    if found:
        raise Violations(found)
    matrix = b"" if plan.looked_up else encode_rows(plan, columns, len(rows))
    return Prepared(columns, matrix)


def lone_input(variant: Variant, ask: Ask) -> tuple[bytes, Sequence[float]] | None:
    """The matrix of a request for one row, and the numbers with names that it was made of, if any.

    Nothing when it takes more to make it: columns of several kinds, or features to look up.

    Raises:
        InvalidArgument: `WRONG_SHAPE`.
    """
    if variant.plan.looked_up:
        return None
    if ask.matrix is not None:
        check_width(variant, ask.matrix, 1)
        return ask.matrix, ()
    plain = plain_inputs(variant.plan, ask.instances)
    return None if plain is None else (plain[1], plain[0])


def _typed(field: InputField, column: FeatureColumn) -> list[Any]:
    # A column of another kind than the signature's would raise deep in the encoding.
    if column.text is (field.codes is not None) or not any(
        value is not None for value in column.values
    ):
        return column.values
    raise Unavailable("FEATURE_TYPE", "the feature service gives an input of another type")


def _encoded_by_caller(variant: Variant, matrix: bytes, rows: list[int], total: int) -> Prepared:
    width = len(variant.plan.fields) * 4
    check_width(variant, matrix, total)
    if len(rows) != total:
        matrix = b"".join(matrix[row * width : (row + 1) * width] for row in rows)
    return Prepared({}, matrix)


def check_width(variant: Variant, matrix: bytes, rows: int) -> None:
    """Refuse a matrix whose rows are not as long as the model's; raises InvalidArgument."""
    columns = len(variant.plan.fields)
    if len(matrix) != columns * 4 * rows:
        raise InvalidArgument(
            "WRONG_SHAPE", f"must have {columns} columns", field="inputs[0].shape"
        )


def shown_features(prepared: Prepared, at: int) -> Mapping[str, Any]:
    """What the model saw in one row, as JSON values: missing ones are null."""
    if prepared.instances:
        return prepared.instances[at]
    shown = {}
    for name, values in prepared.columns.items():
        value = values[at]
        shown[name] = None if value != value else value
    return shown
