"""Log lines, metrics and traces."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from service_kit import metrics, telemetry
from service_kit.logs import JsonFormatter
from tests.service_kit import echo


def line(message: str, *args: object, **extra: object) -> dict[str, object]:
    logger = logging.getLogger("kit.test")
    info = sys.exc_info() if sys.exc_info()[0] else None
    record = logger.makeRecord(
        "kit.test", logging.INFO, __file__, 1, message, args, info, extra=extra
    )
    text = JsonFormatter("registry").format(record)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_a_line_is_json_with_its_extras() -> None:
    got = line("made %d\nof them", 3, model="delay", size=2)
    assert got["message"] == "made 3\nof them"
    assert (got["service"], got["level"], got["logger"]) == ("registry", "INFO", "kit.test")
    assert (got["model"], got["size"]) == ("delay", 2)
    assert "trace_id" not in got


def test_what_json_does_not_know_is_shown_anyhow() -> None:
    assert line("x", what={1, 2}, keys={3: object})["what"] == "{1, 2}"


def test_secrets_are_hidden_by_their_name() -> None:
    got = line("x", service_token="hunter2", Password="hunter2")
    assert "hunter2" not in json.dumps(got)


def test_an_exception_is_one_field() -> None:
    try:
        raise KeyError("here")
    except KeyError:
        assert "KeyError: 'here'" in str(line("failed")["exception"])


def test_a_line_within_a_span_has_its_ids() -> None:
    telemetry.configure(echo.SETTINGS)
    assert telemetry.inject_headers() == {}
    with telemetry.tracer("kit").start_as_current_span("work"):
        got = line("x")
        assert (got["trace_id"], got["span_id"]) == telemetry.trace_ids()
        headers = telemetry.inject_headers()
    assert headers["traceparent"].split("-")[1] == got["trace_id"]
    parent = telemetry.extract(headers)
    with telemetry.tracer("kit").start_as_current_span("next", context=parent):
        assert telemetry.trace_ids()[0] == got["trace_id"]


def test_a_metric_is_made_once() -> None:
    first = metrics.counter("once_total", "Once.", ("kind",))
    assert metrics.counter("once_total", "Once.", ("kind",)) is first
    with pytest.raises(TypeError):
        metrics.gauge("once_total", "Another.")
    assert metrics.histogram("once_seconds", "Time.") is metrics.histogram("once_seconds", "Time.")
