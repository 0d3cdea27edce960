"""The last good answers to what was asked, to be given again when nobody can answer.

What was asked is what the caller sent (entity keys and values, or a row of a matrix), so it is
known also when the features can't be had. An answer given so says that it is one (`last_answer`),
and only answers of versions that the traffic table has now are given.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import orjson

from gateway.dataplane.ask import Answer, Ask
from gateway.dataplane.routing import Route, Variant
from service_kit import metrics

#: How such an answer is called.
LAST_ANSWER = "last_answer"
_KEY_BYTES = 16
#: Bytes that an answer takes, and each of its outputs: an upper estimate.
ENTRY_BYTES, OUTPUT_BYTES = 400, 36

_rows = metrics.gauge("last_answers", "Answers that are remembered as a last resort.")
_bytes = metrics.gauge("last_answers_bytes", "Bytes that they take, by an upper estimate.")


class _Entry(NamedTuple):
    version: str
    names: tuple[str, ...]
    outputs: tuple[float, ...]
    given: float

    @property
    def size(self) -> int:
        return ENTRY_BYTES + OUTPUT_BYTES * len(self.outputs)


_Entries = OrderedDict[bytes, _Entry]


class LastAnswers:
    """Remembers answers of the endpoints that want it, those given last the longest.

    Only of requests that leave version and time to the endpoint: whoever names one wants no other.

    Args:
        most_bytes: Bytes of all answers together.
        clock: Monotonic seconds.
    """

    def __init__(self, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most_bytes
        self._clock = clock
        self._size = 0
        self._endpoints: dict[str, _Entries] = {}
        _rows.set_function(self.rows)
        _bytes.set_function(lambda: self._size)

    def rows(self) -> int:
        """Number of answers."""
        return sum([len(entries) for entries in list(self._endpoints.values())])

    def remember(self, ask: Ask, answer: Answer) -> None:
        """Keep what models have answered, in place of what they answered before."""
        route = answer.route
        if not route.last_answer_rows or not _is_open(ask):
            return
        entries = self._endpoints.setdefault(route.endpoint, OrderedDict())
        now = self._clock()
        for group in answer.scored:
            variant = group.served
            if variant is None or (group.prepared is not None and group.prepared.remembered):
                continue  # no answer of a model, or not to inputs of now
            for row, outputs in zip(group.rows, group.outputs, strict=True):
                key = _key(ask, variant, row)
                if key:
                    entry = _Entry(variant.model_version, variant.plan.outputs, outputs, now)
                    self._put(entries, key, entry)
        while len(entries) > route.last_answer_rows:
            self._forget_oldest(entries)
        while self._size > self._most:
            self._forget_oldest(max(self._endpoints.values(), key=len))

    def find(
        self, route: Route, ask: Ask, rows: Sequence[int], variant: Variant
    ) -> list[tuple[float, ...]] | None:
        """The outputs of some rows of a request; nothing unless all are known and young enough.

        Args:
            variant: Whose answer is wanted; that of another one with the same outputs will do.
        """
        entries = self._endpoints.get(route.endpoint)
        if not entries or not route.last_answer_rows or not _is_open(ask):
            return None
        oldest = self._clock() - route.last_answer_age_s
        versions = {each.model_version for each in route.variants}
        found = []
        for row in rows:
            entry = entries.get(_key(ask, variant, row))
            if entry is None or entry.given < oldest or entry.version not in versions:
                return None
            if entry.names != variant.plan.outputs:
                return None
            found.append(entry.outputs)
        return found

    def keep_only(self, routes: Iterable[Route]) -> None:
        """Forget the answers of endpoints that are gone, or want none any more."""
        wanted = {route.endpoint for route in routes if route.last_answer_rows}
        for name in self._endpoints.keys() - wanted:
            self._size -= sum([entry.size for entry in self._endpoints.pop(name).values()])

    def _put(self, entries: _Entries, key: bytes, entry: _Entry) -> None:
        before = entries.pop(key, None)
        entries[key] = entry
        self._size += entry.size - (before.size if before is not None else 0)

    def _forget_oldest(self, entries: _Entries) -> None:
        self._size -= entries.popitem(last=False)[1].size


def _is_open(ask: Ask) -> bool:
    return not (ask.version or ask.event_times_us)


def _key(ask: Ask, variant: Variant, row: int) -> bytes:
    """What was asked in a row, in short; empty when that can't be said."""
    if ask.matrix is not None:
        # The same numbers are another question to a version whose inputs are others.
        width = len(ask.matrix) // len(ask.instances)
        names = "\0".join([field.name for field in variant.plan.fields])
        asked = names.encode() + ask.matrix[row * width : (row + 1) * width]
    else:
        try:
            asked = orjson.dumps(ask.instances[row], option=orjson.OPT_SORT_KEYS)
        except TypeError:  # a number beyond 64 bits, for one
            return b""
    return hashlib.blake2b(asked, digest_size=_KEY_BYTES).digest()
