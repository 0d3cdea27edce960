"""Prediction ids as a column of sixteen bytes each: checked, ordered and dated all at once."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ids = npt.NDArray[np.uint8]
"""Rows x 16, in the order of RFC 9562: what comes first says when."""

TYPE = pa.binary(16)
_TEXT, _BYTES = 36, 16
_DASHES = [8, 13, 18, 23]
_DASH = ord("-")
_DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1)
_NOT_AN_ID = "a prediction id is not a UUID of version 7"


def read_ids(texts: pa.Array) -> Ids:
    """Ids from their usual text form; raises ValueError when one is no UUID of version 7."""
    data = _characters(texts)
    digits = data.translate(None, b"-")
    characters = np.frombuffer(data, np.uint8).reshape(-1, _TEXT)
    # As many dashes as there must be, each where it must be; hexadecimal digits in lower case.
    right = len(digits) == 2 * _BYTES * len(texts) and digits == digits.lower()
    if not right or not (characters[:, _DASHES] == _DASH).all():
        raise ValueError(_NOT_AN_ID)
    try:
        raw = bytes.fromhex(digits.decode("ascii"))
    except ValueError as error:
        raise ValueError(_NOT_AN_ID) from error
    # Spaces between digits are passed over by `fromhex`: then there are too few.
    ids = np.frombuffer(raw, np.uint8)
    if len(ids) != _BYTES * len(texts):
        raise ValueError(_NOT_AN_ID)
    ids = ids.reshape(-1, _BYTES)
    if not ((ids[:, 6] >> 4 == 7) & (ids[:, 8] >> 6 == 2)).all():
        raise ValueError(_NOT_AN_ID)
    return ids


def column_of(ids: Ids) -> pa.Array:
    """The ids as Arrow keeps them."""
    return pa.FixedSizeBinaryArray.from_buffers(TYPE, len(ids), [None, pa.py_buffer(ids)])


def ids_of(column: pa.ChunkedArray) -> Ids:
    """The ids of a column without nulls."""
    chunks = [_fixed(chunk) for chunk in column.chunks]
    return np.concatenate([np.empty((0, _BYTES), np.uint8), *chunks])


def order_of(ids: Ids) -> npt.NDArray[np.intp] | None:
    """Places of the ids from the least to the greatest; nothing when they are in that order."""
    first, last = halves(ids)
    if (first[1:] > first[:-1]).all():
        return None
    order = first.argsort(kind="stable")
    ordered = first[order]
    # Ids of one gateway differ in their first half; those of several, or repeated ones, need not.
    return order if (ordered[1:] > ordered[:-1]).all() else np.lexsort((last, first))


def days_of(ids: Ids) -> npt.NDArray[np.int64]:
    """Days since 1970-01-01 (UTC) on which they were asked for."""
    days: npt.NDArray[np.int64] = (halves(ids)[0] >> np.uint64(16)).astype(np.int64) // _DAY_MS
    return days


def day_of(number: int) -> date:
    """A day by its number; raises ValueError beyond the calendar."""
    try:
        return _EPOCH + timedelta(days=number)
    except OverflowError as error:
        raise ValueError("an id's time is beyond the calendar") from error


def halves(ids: Ids) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Both halves of each id as numbers: when it was made, mostly, and what tells it apart."""
    numbers = np.ascontiguousarray(ids).view(">u8").astype(np.uint64)
    return numbers[:, 0], numbers[:, 1]


def text_of(value: bytes) -> str:
    """The usual text form of an id."""
    return str(UUID(bytes=value))


def bytes_of(text: str) -> bytes:
    """An id as it is kept; raises ValueError."""
    return UUID(text).bytes


def _characters(texts: pa.Array) -> bytes:
    offsets = np.frombuffer(texts.buffers()[1] or b"", np.int32)
    offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts):
        return b""
    if (np.diff(offsets) != _TEXT).any():
        raise ValueError(_NOT_AN_ID)
    data: bytes = texts.buffers()[2][offsets[0] : offsets[-1]].to_pybytes()
    return data


def _fixed(chunk: pa.Array) -> Ids:
    data = np.frombuffer(chunk.buffers()[1] or b"", np.uint8)
    rows: Ids = data[chunk.offset * _BYTES : (chunk.offset + len(chunk)) * _BYTES]
    return rows.reshape(-1, _BYTES)
