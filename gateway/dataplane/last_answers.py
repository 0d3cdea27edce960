"""The last good answers to what was asked, to be given again when nobody can answer.

What was asked is what the caller sent (entity keys and values, or a row of a matrix), so it is
known also when the features can't be had. An answer given so says that it is one (`last_answer`).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import orjson

from gateway.dataplane.ask import Answer, Ask
from gateway.dataplane.routing import Route
from service_kit import metrics

#: How such an answer is called.
LAST_ANSWER = "last_answer"
_KEY_BYTES = 16

_rows = metrics.gauge("last_answers", "Answers that are remembered as a last resort.")


class _Entry(NamedTuple):
    names: tuple[str, ...]
    outputs: tuple[float, ...]
    given: float


class LastAnswers:
    """Remembers answers of the endpoints that want it, those given last first.

    Only of requests that leave version and time to the endpoint: whoever names one wants no other.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._endpoints: dict[str, OrderedDict[bytes, _Entry]] = {}
        _rows.set_function(self.rows)

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
            if group.served is None:
                continue
            for row, outputs in zip(group.rows, group.outputs, strict=True):
                key = _key(ask, row)
                if key:
                    entries[key] = _Entry(group.output_names, outputs, now)
                    entries.move_to_end(key)
        while len(entries) > route.last_answer_rows:
            entries.popitem(last=False)

    def find(
        self, route: Route, ask: Ask, rows: Sequence[int], names: tuple[str, ...]
    ) -> list[tuple[float, ...]] | None:
        """The outputs of some rows of a request; nothing unless all are known and young enough.

        Args:
            names: Of the outputs that are wanted.
        """
        entries = self._endpoints.get(route.endpoint)
        if not entries or not route.last_answer_rows or not _is_open(ask):
            return None
        oldest = self._clock() - route.last_answer_age_s
        found = []
        for row in rows:
            entry = entries.get(_key(ask, row))
            if entry is None or entry.given < oldest or entry.names != names:
                return None
            found.append(entry.outputs)
        return found

    def keep_only(self, routes: Iterable[Route]) -> None:
        """Forget the answers of endpoints that are gone, or want none any more."""
        wanted = {route.endpoint for route in routes if route.last_answer_rows}
        for name in self._endpoints.keys() - wanted:
            del self._endpoints[name]


def _is_open(ask: Ask) -> bool:
    return not (ask.version or ask.event_times_us)


def _key(ask: Ask, row: int) -> bytes:
    """What was asked in a row, in short; empty when that can't be said."""
    if ask.matrix is not None:
        width = len(ask.matrix) // len(ask.instances)
        asked = ask.matrix[row * width : (row + 1) * width]
    else:
        try:
            asked = orjson.dumps(ask.instances[row], option=orjson.OPT_SORT_KEYS)
        except TypeError:  # a number beyond 64 bits, for one
            return b""
    return hashlib.blake2b(asked, digest_size=_KEY_BYTES).digest()
