"""Callers that predict again and again, and count what they are told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Self

from tests.faults.part import ENDPOINT, until

CALLERS = 4
PAUSE_S = 0.02
TIMEOUT_S = 10.0
ROW = {"f0": 1.0, "f1": 1.0, "f2": 1.0}
OUTPUTS = {"score": 2.0}


class Load:
    """Predicts on every one of some connections, one request after the other.

    Attributes:
        seconds: How long each answer took.
        failures: What was not 2xx, or not the model's own answer.
        rows: Rows that were answered.
    """

    def __init__(self, port: int, key: str, rows: int = 1) -> None:
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self.rows = 0
        self._port, self._rows = port, rows
        self._body = json.dumps({"instances": [ROW] * rows})
        self._headers = {"x-api-key": key, "content-type": "application/json"}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, count: int = 100) -> None:
        """Wait for so many more answers, all of them good."""
        before = len(self.seconds)
        until(lambda: len(self.seconds) >= before + count or self.failures, 30, "no answers")
        self.check()

    def check(self) -> None:
        """Raises AssertionError with what went wrong."""
        assert not self.failures, f"{len(self.failures)} failed: {self.failures[:5]}"

    @property
    def p99_ms(self) -> float:
        """The time within which 99 of 100 answers came, in milliseconds."""
        return 1e3 * _quantile(self.seconds, 0.99)

    def _call(self) -> None:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)) as connection:
            while not self._stopping.wait(PAUSE_S):
                begun = time.monotonic()
                try:
                    connection.request("POST", f"/v1/{ENDPOINT}:predict", self._body, self._headers)
                    answer = connection.getresponse()
                    self._note(answer.status, answer.read(), time.monotonic() - begun)
                except (OSError, HTTPException) as error:
                    self._note(0, repr(error).encode(), time.monotonic() - begun)
                    connection.close()

    def _note(self, status: int, body: bytes, seconds: float) -> None:
        told = json.loads(body)["predictions"] if status == 200 else []
        good = [each for each in told if each["outputs"] == OUTPUTS and not each.get("fallback")]
        with self._lock:
            self.seconds.append(seconds)
            self.rows += len(told)
            if len(good) != self._rows:
                self.failures.append(f"{status} {body.decode()[:300]}")


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
