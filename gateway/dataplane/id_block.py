"""Ids of many predictions, written together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from service_kit.ids import LENGTH, uuid7_parts

#: Ids that begin with the same millisecond, and the digits by which they differ.
_TICKS = 1 << 12
_HEX = np.frombuffer(b"".join(b"%03x" % tick for tick in range(_TICKS)), np.uint8).reshape(-1, 3)
#: The first digit after the time: the variant's two bits, 10, and two of a random byte.
_VARIANT = np.frombuffer(b"".join(b"89ab"[byte >> 4 & 3 :][:1] for byte in range(256)), np.uint8)


class IdBlock:
    """New ids of predictions."""

    def __init__(self, count: int) -> None:
        first, randomness = uuid7_parts(count)
        digits = np.frombuffer(randomness.hex().encode(), np.uint8).reshape(count, 16)
        bits = np.frombuffer(randomness, np.uint8).reshape(count, 8)
        text = np.empty((count, LENGTH + 1), np.uint8)
        at = 0
        while at < count:  # once, unless a millisecond ends in between
            millis, tick = divmod(first + at, _TICKS)
            end = min(count, at + _TICKS - tick)
            text[at:end] = _pattern(millis)
            text[at:end, 15:18] = _HEX[tick : tick + end - at]
            at = end
        text[:, 19] = _VARIANT[bits[:, 0]]
        text[:, 20:23] = digits[:, 1:4]
        text[:, 24:36] = digits[:, 4:]
        self._text = text

    @property
    def first(self) -> str:
        """The first id."""
        return self._text[0, :LENGTH].tobytes().decode()

    def listed(self) -> str:
        """All ids, with commas between them."""
        return self._text.tobytes()[:-1].decode()

    def written(self) -> bytes:
        """All ids, one after the other with nothing between them."""
        return self._text[:, :LENGTH].tobytes()


@lru_cache(maxsize=4)
def _pattern(millis: int) -> npt.NDArray[np.uint8]:
    """An id of a millisecond with zeros for what is its own, and the comma after it."""
    digits = f"{millis:012x}"
    text = f"{digits[:8]}-{digits[8:]}-7000-0000-000000000000,"
    return np.frombuffer(text.encode(), np.uint8)
