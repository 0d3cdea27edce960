"""Rollouts: a version's way into full traffic, or back out, as a pure state machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from service_kit.errors import FailedPrecondition, InvalidArgument
from serving_svc.domain.traffic import variant_name

DEFAULT_STEPS = (5.0, 25.0, 50.0, 100.0)
MOST_STEPS = 20


class RolloutState(StrEnum):
    """Life of a rollout."""

    LOADING = "LOADING"
    SHADOW = "SHADOW"
    RAMPING = "RAMPING"
    PAUSED = "PAUSED"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"
    ABORTED = "ABORTED"
    FAILED = "FAILED"


ENDED = frozenset(
    {
        RolloutState.PROMOTED,
        RolloutState.ROLLED_BACK,
        RolloutState.ABORTED,
        RolloutState.FAILED,
    }
)


class Decision(StrEnum):
    """What a look at the experiment says should be done."""

    CONTINUE = "CONTINUE"
    SHIP = "SHIP"
    ROLLBACK = "ROLLBACK"
    INCONCLUSIVE = "INCONCLUSIVE"


class Action(StrEnum):
    """What a rollout does next."""

    HOLD = "HOLD"
    ADVANCE = "ADVANCE"
    PROMOTE = "PROMOTE"
    ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a version is rolled out; the fields and units are those of the contract."""

    steps: tuple[float, ...] = DEFAULT_STEPS
    shadow_percent: float = 100.0
    skip_shadow: bool = False
    primary_metric: str = "brier"
    step_min_samples: int = 500
    max_samples: int = 20_000
    alpha: float = 0.05
    margin: float = 0.0
    max_error_rate: float = 0.01
    max_latency_ratio: float = 2.0
    timeout: timedelta = timedelta(days=7)
    interval: timedelta = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stop on the way: share answered and share shadowed, in per cent."""

    name: str
    weight: float
    shadow: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the judge says now, and on how many labelled predictions it rests."""

    decision: Decision
    reasons: tuple[str, ...]
    samples: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next action of a rollout and why."""

    action: Action
    reasons: tuple[str, ...]
    samples: int = 0


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """One thing that happened; `step` and `decision` as the contract words them."""

    step: str
    decision: str
    reasons: tuple[str, ...]
    samples: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout and where it stands.

    Attributes:
        stage: Index into `stages(strategy)`; -1 before the first table.
        stage_samples: Labelled predictions when the stage began; -1 until the first look.
        base_generation: Table before the rollout.
        table_generation: Table that the rollout made last; another one in force means that
            somebody else changed the traffic.
        paused: Held by a person.
    """

    rollout_id: str
    endpoint_id: str
    model_version: str
    champion_version: str
    strategy: Strategy
    created: datetime
    actor: str
    base_generation: int
    table_generation: int
    state: RolloutState = RolloutState.LOADING
    stage: int = -1
    stage_samples: int = -1
    weight: float = 0.0
    experiment: str = ""
    paused: bool = False
    ended: datetime | None = None
    reason: str = ""
    events: tuple[RolloutEvent, ...] = field(default=())

    @property
    def name(self) -> str:
        """`endpoints/{endpoint}/rollouts/{rollout}`."""
        return f"endpoints/{self.endpoint_id}/rollouts/{self.rollout_id}"

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDED

    @property
    def shown_state(self) -> RolloutState:
        """The state as people see it: held rollouts are paused."""
        return RolloutState.PAUSED if self.active and self.paused else self.state

    @property
    def stage_name(self) -> str:
        """Name of the stage, `loading` before the first."""
        return "loading" if self.stage < 0 else stages(self.strategy)[self.stage].name

    @property
    def arms(self) -> tuple[str, str]:
        """Names of the variants that are compared, the control first."""
        return variant_name(self.champion_version), variant_name(self.model_version)


def resolved(strategy: Strategy) -> Strategy:
    """The strategy with a default for each value that is zero.

    Raises InvalidArgument naming the field that is wrong.
    """
    defaults = Strategy()
    zeros = (
        name
        for name in Strategy.__dataclass_fields__
        if name != "margin" and not getattr(strategy, name)
    )
    full = replace(strategy, **{name: getattr(defaults, name) for name in zeros})
    _check_steps(full)
    _check_bounds(full)
    return full


def _check_steps(strategy: Strategy) -> None:
    steps = strategy.steps
    rising = all(a < b for a, b in pairwise(steps))
    if not all(map(math.isfinite, steps)) or not rising or steps[0] <= 0 or steps[-1] != 100:
        raise _wrong("steps", "must rise from above 0 to 100")
    if len(steps) > MOST_STEPS:
        raise _wrong("steps", f"at most {MOST_STEPS} steps")
    if any(abs(step * 100 - round(step * 100)) > 1e-6 for step in steps):
        raise _wrong("steps", "must be multiples of 0.01")
    if strategy.skip_shadow and len(steps) == 1:
        raise _wrong("steps", "a rollout without shadow needs a step below 100")


def _check_bounds(strategy: Strategy) -> None:
    bounds: dict[str, tuple[float, float, float]] = {
        "shadow_percent": (strategy.shadow_percent, 0.01, 100),
        "step_min_samples": (strategy.step_min_samples, 1, 1e12),
        "max_samples": (strategy.max_samples, strategy.step_min_samples, 1e12),
        "alpha": (strategy.alpha, 1e-9, 0.5),
        "margin": (strategy.margin, 0, 1e12),
        "max_error_rate": (strategy.max_error_rate, 1e-9, 1),
        "max_latency_ratio": (strategy.max_latency_ratio, 1e-3, 1e6),
        "timeout": (strategy.timeout.total_seconds(), 1, 366 * 86_400),
        "interval": (strategy.interval.total_seconds(), 0.05, 86_400),
    }
    for name, (value, least, most) in bounds.items():
        if not math.isfinite(value) or not least <= value <= most:
            raise _wrong(name, f"must be from {least:g} to {most:g}")


def _wrong(name: str, message: str) -> InvalidArgument:
    return InvalidArgument("INVALID_STRATEGY", message, field=f"rollout.strategy.{name}")


def stages(strategy: Strategy) -> tuple[Stage, ...]:
    """The stops before full traffic.

    >>> [stage.name for stage in stages(Strategy())]
    ['shadow', '5%', '25%', '50%']
    """
    ramp = tuple(Stage(f"{step:g}%", step) for step in strategy.steps[:-1])
    if strategy.skip_shadow:
        return ramp
    return (Stage("shadow", 0.0, strategy.shadow_percent), *ramp)


def judge(rollout: Rollout, look: Look, now: datetime) -> Verdict:
    """What a rollout does next.

    The judge may take traffic away at any time, also while a person holds the rollout; it gives
    more only when nobody holds it, no objection stands and the stage has seen enough.
    """
    if look.decision is Decision.ROLLBACK:
        return Verdict(Action.ROLL_BACK, look.reasons, look.samples)
    if rollout.paused:
        return Verdict(Action.HOLD, ("held by a person",), look.samples)
    if look.decision is Decision.INCONCLUSIVE:
        undecided = f"undecided after {look.samples} labelled predictions"
        return Verdict(Action.ROLL_BACK, (undecided, *look.reasons), look.samples)
    if now - rollout.created > rollout.strategy.timeout:
        return Verdict(Action.ROLL_BACK, ("the rollout took longer than allowed",), look.samples)
    return _advance(rollout, look)


def _advance(rollout: Rollout, look: Look) -> Verdict:
    since = look.samples - max(rollout.stage_samples, 0)
    needed = rollout.strategy.step_min_samples
    if since < needed:
        waiting = f"{since} of {needed} labelled predictions at this step"
        return Verdict(Action.HOLD, (waiting,), look.samples)
    if rollout.stage < len(stages(rollout.strategy)) - 1:
        return Verdict(Action.ADVANCE, look.reasons, look.samples)
    if look.decision is Decision.SHIP:
        return Verdict(Action.PROMOTE, look.reasons, look.samples)
    return Verdict(Action.HOLD, ("full traffic needs a proof", *look.reasons), look.samples)


def entered(rollout: Rollout, index: int, generation: int) -> Rollout:
    """The rollout at a stage, with the table that it made for it."""
    stage = stages(rollout.strategy)[index]
    state = RolloutState.RAMPING if stage.weight else RolloutState.SHADOW
    return replace(
        rollout,
        stage=index,
        stage_samples=-1,
        state=state,
        weight=stage.weight,
        table_generation=generation,
    )


def concluded(
    rollout: Rollout, state: RolloutState, reasons: Sequence[str], now: datetime
) -> Rollout:
    """The rollout at its end."""
    return replace(
        rollout,
        state=state,
        weight=100.0 if state is RolloutState.PROMOTED else 0.0,
        ended=now,
        paused=False,
        reason="; ".join(reasons),
    )


def refuse_ended(rollout: Rollout) -> None:
    """Raises FailedPrecondition (`ROLLOUT_ENDED`) for a rollout that has ended."""
    if not rollout.active:
        raise FailedPrecondition("ROLLOUT_ENDED", "the rollout has ended")
