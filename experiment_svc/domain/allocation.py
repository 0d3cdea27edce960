"""Which arm a unit belongs to: a pure function of a salt, the weights and the unit's id.

The gateway and the SDK compute the same, so that no service has to be asked and nothing has to
be remembered. A unit's slot never changes under one salt; when the weights change, only units
whose slot lies between the old and the new edges move.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from service_kit.errors import InvalidArgument

SLOTS = 10_000
"""Number of slots that units are hashed to; a weight is resolved to 1/10,000 of the units."""


def bucket(salt: str, unit_id: str) -> int:
    """Hash a unit to its slot.

    Args:
        salt: Secret or name that makes the split independent of every other split.
        unit_id: Id of the unit.

    Returns:
        A slot in `[0, SLOTS)`, uniform over units, from the first 8 bytes of BLAKE2b.

    >>> bucket("late-arrival", "unit-1"), bucket("late-arrival", "unit-2")
    (9386, 6900)
    """
    digest = hashlib.blake2b(f"{salt}:{unit_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SLOTS


def upper_edges(weights: Sequence[float]) -> tuple[int, ...]:
    """Divide the slots into one contiguous range an arm, in the arms' order.

    Args:
        weights: Finite weights, none negative, with a positive sum; they need not sum to 1.

    Returns:
        For each arm the first slot that is no longer its own; the last one is `SLOTS`.

    Raises:
        InvalidArgument: `INVALID_WEIGHTS`.

    >>> upper_edges([0.95, 0.05])
    (9500, 10000)
    """
    total = math.fsum(weights)
    if not weights or not math.isfinite(total) or total <= 0 or min(weights) < 0:
        raise InvalidArgument(
            "INVALID_WEIGHTS", "must be finite, not negative and not all zero", field="weights"
        )
    inner = [round(SLOTS * part / total) for part in accumulate(weights[:-1])]
    return (*inner, SLOTS)


def assign(slot: int, edges: Sequence[int]) -> int:
    """Give the index of the arm whose range holds a slot.

    >>> [assign(slot, (9500, 10000)) for slot in (0, 9499, 9500, 9999)]
    [0, 0, 1, 1]
    """
    if not 0 <= slot < edges[-1]:
        raise ValueError("the slot lies outside the table")
    return bisect_right(edges, slot)
