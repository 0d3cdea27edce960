"""Has replicas score prepared rows, and trusts their answers no further than it must."""

from __future__ import annotations

import math
from typing import Protocol

from gateway.dataplane.inputs import decode_floats
from gateway.dataplane.replicas import ReplicaError, Scored
from gateway.dataplane.routing import Variant

Outputs = list[tuple[float, ...]]
"""One tuple a row."""


class Replicas(Protocol):
    """What scores rows."""

    def serves(self, version: str) -> bool:
        """Whether a version can be asked now."""
        ...

    async def infer(self, version: str, inputs: bytes, rows: int, deadline: float) -> Scored:
        """Outputs as float32; raises ReplicaError."""
        ...


class Scorer:
    """Scores rows.

    Args:
        replicas: The replicas of all versions.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    def serves(self, variant: Variant) -> bool:
        """Whether a variant can be asked now."""
        return self._replicas.serves(variant.model_version)

    async def infer(
        self, variant: Variant, matrix: bytes, rows: int, deadline: float
    ) -> tuple[Outputs, int]:
        """The outputs of a variant and the time that its replica took in microseconds.

        Args:
            matrix: float32, little-endian, row-major rows x inputs.

        The replica's own time, queue and scoring: what this process does meanwhile is not the
        model's, and a mirrored request would bear more of it than an answered one.

        Raises:
            ReplicaError: Also when the replica's answer makes no sense.
        """
        data, took = await self._replicas.infer(variant.model_version, matrix, rows, deadline)
        return decode_outputs(variant, data, rows), took


def decode_outputs(variant: Variant, data: bytes, rows: int) -> Outputs:
    """The outputs in a replica's answer.

    Args:
        data: float32, little-endian, row-major rows x outputs.

    Raises:
        ReplicaError: `WRONG_OUTPUT_SHAPE` or `OUTPUT_NOT_FINITE`.
    """
    width = len(variant.plan.outputs)
    if len(data) != rows * width * 4:
        raise ReplicaError("WRONG_OUTPUT_SHAPE")
    flat = decode_floats(data)
    if not all(map(math.isfinite, flat)):
        raise ReplicaError("OUTPUT_NOT_FINITE")
    return [flat] if rows == 1 else list(zip(*(iter(flat),) * width, strict=True))
