"""What the load generators print."""

from __future__ import annotations

import pytest

from bench.serving.check import nearest
from bench.serving.load import GeneratorError, parse_h2load, parse_wrk

WRK = """Running 3s test @ http://127.0.0.1:1/
  10 requests in 3.00s
{"requests": 10, "seconds": 3.000100, "p50": 1.5, "p95": 2.5, "p99": 3.5, "errors": 1}
"""
H2LOAD = """finished in 2.00s, 2.00 req/s, 1KB/s
traffic: 1.2KB (1234) total, 234B (234) headers (space savings 90.00%), 90B (90) data
"""


def test_wrk() -> None:
    found = parse_wrk(WRK, 0.5)
    assert (found.requests, found.errors, found.p99_ms) == (10, 1, 3.5)
    assert found.generator_cpu_s == 0.5


def test_h2load_finds_calls_without_an_answer() -> None:
    log = [f"1\t200\t{micros}" for micros in (1000, 2000, 3000, 4000)]
    found = parse_h2load(H2LOAD, log, 30, 0.1)
    assert (found.requests, found.errors, found.seconds) == (4, 1, 2.0)
    assert found.p50_ms == 2.5
    assert parse_h2load(H2LOAD, log, 22, 0.1).errors == 0


def test_a_generator_that_says_nothing_has_failed() -> None:
    with pytest.raises(GeneratorError):
        parse_wrk("unable to connect", 0.0)
    with pytest.raises(GeneratorError):
        parse_h2load("", [], 30, 0.0)


def test_the_nearest_version_is_the_one_that_answered() -> None:
    assert nearest(0.5, [0.1, 0.5]) == (1, 0.0)
    assert nearest(float("nan"), [0.1])[1] == float("inf")
