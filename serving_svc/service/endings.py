"""The end of a rollout: one transaction that gives the traffic to whom it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from serving_svc.domain import Change, Rollout, RolloutEvent, RolloutState, rollouts, traffic
from serving_svc.service import loading
from serving_svc.service.ports import Unit

_DECISIONS = {
    RolloutState.PROMOTED: "promoted",
    RolloutState.ROLLED_BACK: "rolled_back",
    RolloutState.ABORTED: "aborted",
    RolloutState.FAILED: "failed",
}


def end_rollout(
    unit: Unit,
    rollout: Rollout,
    state: RolloutState,
    reasons: Sequence[str],
    actor: str,
    now: datetime,
    samples: int = 0,
) -> None:
    """End a rollout; its own table, and no other, gives way to the champion or the challenger.

    Nothing happens to a rollout that has ended.
    """
    if not rollout.active:
        return
    endpoint = unit.endpoint(rollout.endpoint_id)
    current = unit.table(endpoint.endpoint_id, endpoint.generation)
    decision = _DECISIONS[state]
    change = Change(actor, f"rollout {decision}: {'; '.join(reasons)}"[:2000], now)
    if current is not None and current.generation == rollout.table_generation:
        if state is RolloutState.PROMOTED:
            table = traffic.switched(current, rollout.model_version, current.salt, change)
            endpoint = unit.add_table(endpoint, table)
        elif rollout.stage >= 0:
            good = unit.table(endpoint.endpoint_id, rollout.base_generation)
            if good is not None:
                endpoint = unit.add_table(endpoint, traffic.restored(current, good, change))
    event = RolloutEvent(rollout.stage_name, decision, tuple(reasons), samples, now)
    unit.save_rollout(rollouts.concluded(rollout, state, reasons, now), event)
    loading.settle(unit, endpoint)
    unit.announce(rollout.name, decision, actor, "; ".join(reasons)[:2000])
