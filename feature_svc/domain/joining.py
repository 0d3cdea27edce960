"""The point-in-time join: what was known of an entity at an instant, and nothing later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from feature_svc.domain.tables import Rows, Table

_MICROSECOND = timedelta(microseconds=1)


def point_in_time_rows(
    labels: Table,
    history: Table,
    *,
    keys: Sequence[str],
    label_time: str,
    history_time: str,
    ttl: timedelta | None,
) -> Rows:
    """For each label the row of history that was the newest at the label's time.

    Of rows with equal times the later one in `history` counts. A row of exactly the label's time
    is known by then; one that is older than `ttl` is not there, nor is a row without a key.

    Args:
        labels: Any order; columns `keys` and `label_time` (timestamp[us]).
        history: In the order in which it was written; columns `keys` and `history_time`.
        keys: Columns that must be equal; of the same type on both sides.
        label_time: Column of `labels`.
        history_time: Column of `history`.
        ttl: How long a row holds; for ever when absent.

    Returns:
        Positions in `history`, -1 for none; one for each label, in order.
    """
    label_codes, codes = _codes(labels, history, keys)
    when, known = _micros(labels, label_time), _micros(history, history_time)
    # Stable, so of equal times the later row stays last.
    order = np.lexsort((known, codes))
    instants = np.unique(known)
    width = len(instants) + 1
    ranks = np.searchsorted(instants, known[order], side="left") + 1
    label_ranks = np.searchsorted(instants, when, side="right")
    at = np.searchsorted(codes[order] * width + ranks, label_codes * width + label_ranks, "right")
    found = np.where(at > 0, order[at - 1] if len(order) else -1, -1)
    hit = (found >= 0) & (label_codes >= 0)
    hit[hit] = codes[found[hit]] == label_codes[hit]
    if ttl is not None:
        hit[hit] = when[hit] - known[found[hit]] <= ttl // _MICROSECOND
    return np.where(hit, found, -1).astype(np.int64)


def latest_rows(history: Table, *, keys: Sequence[str], time: str) -> Rows:
    """The newest row of each entity, of equal times the later one; ordered by position.

    Rows without a key are left out.
    """
    codes, _ = _codes(history, history.slice(0, 0), keys)
    order = np.lexsort((_micros(history, time), codes))
    last = np.append(codes[order][1:] != codes[order][:-1], True)[: len(order)]
    newest = order[last & (codes[order] >= 0)]
    return np.sort(newest).astype(np.int64)


def taken(column: Any, rows: Rows) -> Any:
    """The values of a column at some rows, null where a row is -1."""
    return column.take(pa.array(rows, mask=rows < 0))


def _codes(left: Table, right: Table, keys: Sequence[str]) -> tuple[Rows, Rows]:
    """Numbers that are equal where all keys are; -1 where one is null."""
    codes = np.zeros(left.num_rows + right.num_rows, np.int64)
    missing = np.zeros(len(codes), bool)
    for key in keys:
        chunks = [*left.column(key).chunks, *right.column(key).chunks]
        column = pa.chunked_array(chunks, left.column(key).type)
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        missing |= encoded.is_null().to_numpy(zero_copy_only=False)
        indices = encoded.indices.fill_null(0).to_numpy().astype(np.int64)
        codes = codes * max(len(encoded.dictionary), 1) + indices
        # Numbered anew, so that the product of many keys never overflows.
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    codes[missing] = -1
    return codes[: left.num_rows], codes[left.num_rows :]


def _micros(table: Table, column: str) -> Rows:
    numbers: Rows = table.column(column).cast(pa.int64()).to_numpy()
    return numbers
