"""Answers that were given before, for endpoints whose models always say the same of the same.

An answer is found by the version and the row that the model sees, byte by byte: a version never
changes, so an answer never grows old, and a new traffic table leaves nothing to be cleared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.dataplane.routing import Route, Variant
from service_kit import metrics

Outputs = list[tuple[float, ...]]
"""One tuple a row."""

#: Bytes that an entry takes besides its row and outputs, and each output takes: an upper estimate.
ENTRY_BYTES, OUTPUT_BYTES = 320, 32

_total = metrics.counter(
    "cache_rows_total", "Rows looked for among cached answers: hit or miss.", ("endpoint", "result")
)
_evicted = metrics.counter("cache_evicted_total", "Cached answers that made room for others.")
_rows = metrics.gauge("cached_answers", "Cached answers.")
_bytes = metrics.gauge("cached_answers_bytes", "Bytes that they take, by an upper estimate.")


class Entry(NamedTuple):
    """A cached answer, and the microseconds that the model took for it."""

    outputs: tuple[float, ...]
    took_us: int


class Known(NamedTuple):
    """The outputs of all rows, the time of the model, and which rows came from the cache."""

    outputs: Outputs
    took_us: int
    cached: list[bool]


class AnswerCache:
    """Cached answers of each version, those not asked for the longest going first.

    Args:
        most_bytes: Bytes of all answers together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._versions: dict[str, _Version] = {}
        _rows.set_function(self.rows)
        _bytes.set_function(lambda: self._bytes)

    def rows(self) -> int:
        """Number of answers."""
        return sum([len(version.entries) for version in list(self._versions.values())])

    def look(self, route: Route, variant: Variant, matrix: bytes) -> Look:
        """What is known of some rows.

        Args:
            matrix: float32, little-endian, row-major, of the variant's inputs.
        """
        width = len(variant.plan.fields) * 4
        keys = [matrix[at : at + width] for at in range(0, len(matrix), width)]
        version = self._versions.get(variant.model_version)
        if version is None:
            return Look(self, route, variant, keys, [None] * len(keys), matrix)
        found = version.find(keys)
        missing = b"".join([key for key, each in zip(keys, found, strict=True) if each is None])
        return Look(self, route, variant, keys, found, missing)

    def put(self, name: str, key: bytes, entry: Entry, most_rows: int) -> None:
        """Keep an answer of a version.

        Args:
            most_rows: Answers of that version at most.
        """
        size = len(key) + ENTRY_BYTES + OUTPUT_BYTES * len(entry.outputs)
        version = self._versions.get(name)
        if version is None:
            version = self._versions[name] = _Version()
        if key in version.entries or size > self._most or most_rows < 1:
            return
        version.entries[key] = entry
        self._bytes += version.add(size)
        while len(version.entries) > most_rows:
            self._evict(version)
        while self._bytes > self._most:
            self._evict(max(self._versions.values(), key=lambda each: each.bytes))

    def keep_only(self, versions: Collection[str]) -> None:
        """Let go of the answers of all other versions."""
        for name in self._versions.keys() - frozenset(versions):
            self._bytes -= self._versions.pop(name).bytes

    def _evict(self, version: _Version) -> None:
        key, entry = version.entries.popitem(last=False)
        size = len(key) + ENTRY_BYTES + OUTPUT_BYTES * len(entry.outputs)
        self._bytes += version.add(-size)
        _evicted.inc()


class _Version:
    """Answers of one version, the one asked for last at the end."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.bytes = 0

    def add(self, size: int) -> int:
        self.bytes += size
        return size

    def find(self, keys: Sequence[bytes]) -> list[Entry | None]:
        get, touch = self.entries.get, self.entries.move_to_end
        found = [get(key) for key in keys]
        for key, entry in zip(keys, found, strict=True):
            if entry is not None:
                touch(key)
        return found


@dataclass(slots=True)
class Look:
    """What the cache knows of some rows.

    Attributes:
        missing: The rows that a replica has to score, as a matrix; empty when none.
    """

    cache: AnswerCache
    route: Route
    variant: Variant
    keys: list[bytes]
    found: list[Entry | None]
    missing: bytes

    @property
    def misses(self) -> int:
        """Number of rows that a replica has to score."""
        return self.found.count(None)

    def complete(self, outputs: Outputs, took_us: int) -> Known:
        """All outputs, those that a replica gave for the missing rows kept for later.

        Args:
            took_us: Microseconds that the replica took; where it had nothing to score, what it once
                took counts: a kept answer must not make its model look quick.
        """
        cached = [entry is not None for entry in self.found]
        scored = iter(outputs)
        name, most = self.variant.model_version, self.route.cache_rows
        whole: Outputs = []
        for key, entry in zip(self.keys, self.found, strict=True):
            if entry is not None:
                whole.append(entry.outputs)
                continue
            fresh = next(scored)
            self.cache.put(name, key, Entry(fresh, took_us), most)
            whole.append(fresh)
        self._count(len(outputs))
        if not outputs:
            took_us = max([entry.took_us for entry in self.found if entry is not None])
        return Known(whole, took_us, cached)

    def _count(self, misses: int) -> None:
        hits = len(self.keys) - misses
        if hits:
            _counted(self.route.endpoint, "hit").inc(hits)
        if misses:
            _counted(self.route.endpoint, "miss").inc(misses)


def _counted(endpoint: str, result: str) -> Any:
    return _total.labels(endpoint, result)
