"""Traffic tables: who answers which share of the requests.

A table never changes; each change makes the next generation. Every table knows the generation
that is good to go back to, so that a rollback needs no search and no judgement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from service_kit.errors import Conflict, FailedPrecondition, InvalidArgument
from service_kit.names import check_id, parse_name

BASIS_POINTS = 10_000
MOST_VARIANTS = 16
MOST_OVERRIDES = 1_000
VERSION_PATTERN = "models/{model}/versions/{version}"


@dataclass(frozen=True, slots=True)
class Variant:
    """A version with its share of the traffic and the share that it shadows, in per cent."""

    name: str
    model_version: str
    weight: float
    shadow: float = 0.0

    @property
    def weight_bp(self) -> int:
        """The share of the traffic in basis points."""
        return round(self.weight * 100)

    @property
    def shadow_bp(self) -> int:
        """The shadowed share in basis points."""
        return round(self.shadow * 100)


@dataclass(frozen=True, slots=True)
class TrafficTable:
    """One generation of an endpoint's traffic.

    Attributes:
        champion: Name of the variant that answers when the chosen one can't.
        last_good: Generation to go back to; 0 when there is none.
        transitional: Made by a rollout on its way; not good to go back to.
    """

    generation: int
    variants: tuple[Variant, ...]
    champion: str
    salt: str
    created: datetime
    experiment: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    actor: str = ""
    last_good: int = 0
    transitional: bool = False

    @property
    def champion_version(self) -> str:
        """`models/{model}/versions/{version}` of the champion."""
        return self.variant(self.champion).model_version

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def versions(self) -> frozenset[str]:
        """Versions that it names, whether they have weight or not."""
        return frozenset(variant.model_version for variant in self.variants)

    @property
    def steady(self) -> bool:
        """Whether the champion has all the traffic."""
        return self.variant(self.champion).weight_bp == BASIS_POINTS


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes a table, why and when."""

    actor: str
    reason: str
    at: datetime


def variant_name(model_version: str) -> str:
    """Name that a version has in a table.

    >>> variant_name("models/late-arrival/versions/3")
    'v3'
    """
    ids = parse_name(VERSION_PATTERN, model_version, field="model_version")
    return f"v{ids['version']}"


def check_variants(variants: Sequence[Variant], model: str) -> tuple[Variant, ...]:
    """The variants with their names filled in.

    Raises InvalidArgument naming the field (`NO_VARIANTS`, `WRONG_MODEL`, `DUPLICATE_VARIANT`,
    `INVALID_WEIGHT`, `WEIGHTS_NOT_100`).
    """
    if not 0 < len(variants) <= MOST_VARIANTS:
        raise InvalidArgument(
            "NO_VARIANTS", f"must be 1 to {MOST_VARIANTS} variants", field="variants"
        )
    named = tuple(_check_variant(variant, model, i) for i, variant in enumerate(variants))
    for key in ("name", "model_version"):
        if len({getattr(variant, key) for variant in named}) < len(named):
            raise InvalidArgument("DUPLICATE_VARIANT", f"{key} occurs twice", field="variants")
    if sum(variant.weight_bp for variant in named) != BASIS_POINTS:
        raise InvalidArgument("WEIGHTS_NOT_100", "weights must add up to 100", field="variants")
    return named


def _check_variant(variant: Variant, model: str, index: int) -> Variant:
    where = f"variants[{index}]"
    ids = parse_name(VERSION_PATTERN, variant.model_version, field=f"{where}.model_version")
    if f"models/{ids['model']}" != model:
        raise InvalidArgument(
            "WRONG_MODEL", "is not of the endpoint's model", field=f"{where}.model_version"
        )
    for part in ("weight", "shadow"):
        _check_share(getattr(variant, part), f"{where}.{part}")
    if variant.name:
        check_id(variant.name, f"{where}.variant")
        return variant
    return replace(variant, name=variant_name(variant.model_version))


def _check_share(value: float, where: str) -> None:
    if not math.isfinite(value) or not 0 <= value <= 100:
        raise InvalidArgument("INVALID_WEIGHT", "must be from 0 to 100", field=where)
    if abs(value * 100 - round(value * 100)) > 1e-6:
        raise InvalidArgument("INVALID_WEIGHT", "must be a multiple of 0.01", field=where)


def check_overrides(overrides: Mapping[str, str], variants: Sequence[Variant]) -> dict[str, str]:
    """The overrides, when each names a variant.

    Raises InvalidArgument (`UNKNOWN_VARIANT`, `TOO_MANY_OVERRIDES`).
    """
    if len(overrides) > MOST_OVERRIDES:
        raise InvalidArgument(
            "TOO_MANY_OVERRIDES", f"at most {MOST_OVERRIDES} units", field="overrides"
        )
    if not set(overrides.values()) <= {variant.name for variant in variants}:
        raise InvalidArgument("UNKNOWN_VARIANT", "names no variant of the table", field="overrides")
    return dict(overrides)


def check_generation(current: TrafficTable, based_on: int) -> None:
    """Compare-and-set: raises Conflict (`STALE_GENERATION`) unless based on the table in force."""
    if based_on != current.generation:
        raise Conflict(
            "STALE_GENERATION", "the traffic table was changed meanwhile", field="generation"
        )


def switched(
    current: TrafficTable | None, model_version: str, salt: str, change: Change
) -> TrafficTable:
    """All traffic to one version in one step (blue-green); `salt` is for a first table."""
    name = variant_name(model_version)
    only = (Variant(name, model_version, 100.0),)
    if current is None:
        return TrafficTable(
            1, only, name, salt, change.at, reason=change.reason, actor=change.actor
        )
    kept = {unit: variant for unit, variant in current.overrides.items() if variant == name}
    return _next(current, change, variants=only, champion=name, overrides=kept)


def split(
    current: TrafficTable,
    variants: Sequence[Variant],
    overrides: Mapping[str, str],
    change: Change,
) -> TrafficTable:
    """Traffic as a person divides it; the champion stays while it has a share."""
    shares = {variant.name: variant.weight_bp for variant in variants}
    champion = current.champion
    if not shares.get(champion):
        champion = max(variants, key=lambda variant: variant.weight_bp).name
    return _next(
        current, change, variants=tuple(variants), champion=champion, overrides=dict(overrides)
    )


def ramped(
    base: TrafficTable,
    current: TrafficTable,
    challenger: str,
    *,
    weight: float,
    shadow: float,
    experiment: str,
    change: Change,
) -> TrafficTable:
    """A rollout's step: the challenger takes `weight` per cent of what the champion had.

    Args:
        base: Table before the rollout, in which the champion has all the traffic.
        current: Table in force.
        challenger: Version that is rolled out.
        weight: Share that it answers, in per cent.
        shadow: Share that it shadows, in per cent.
        experiment: Experiment that judges.
        change: Who and why.
    """
    name = variant_name(challenger)
    champion = replace(base.variant(base.champion), weight=100.0 - weight, shadow=0.0)
    moved = _next(
        current,
        change,
        variants=(champion, Variant(name, challenger, weight, shadow)),
        champion=base.champion,
        overrides=dict(base.overrides),
        experiment=experiment,
    )
    return replace(moved, transitional=True, last_good=base.generation)


def restored(current: TrafficTable, good: TrafficTable, change: Change) -> TrafficTable:
    """The content of an earlier table, as the next generation."""
    return replace(
        good,
        generation=current.generation + 1,
        created=change.at,
        reason=change.reason,
        actor=change.actor,
        transitional=False,
    )


def last_good_of(table: TrafficTable) -> int:
    """The generation to go back to.

    Raises FailedPrecondition (`NO_GOOD_TABLE`) when there is none.
    """
    if not table.last_good:
        raise FailedPrecondition("NO_GOOD_TABLE", "there is no earlier table to go back to")
    return table.last_good


def _next(
    current: TrafficTable,
    change: Change,
    *,
    variants: tuple[Variant, ...],
    champion: str,
    overrides: Mapping[str, str],
    experiment: str = "",
) -> TrafficTable:
    return TrafficTable(
        generation=current.generation + 1,
        variants=variants,
        champion=champion,
        salt=current.salt,
        created=change.at,
        experiment=experiment,
        overrides=overrides,
        reason=change.reason,
        actor=change.actor,
        last_good=current.last_good if current.transitional else current.generation,
    )
