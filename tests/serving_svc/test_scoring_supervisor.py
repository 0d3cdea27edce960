"""Who starts and stops stream scorers as the record wants."""

from __future__ import annotations

from typing import Any

import pytest

from serving_svc.domain.scorers import StreamScorer
from serving_svc.service import scoring_supervisor
from serving_svc.service.scoring_supervisor import ScoringSupervisor
from tests.serving_svc.scoring_stream import Stream, until
from tests.serving_svc.stream_process import Record


def test_a_supervisor_starts_and_stops_what_the_record_wants(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_supervisor, "LOOK_S", 0.02)
    forgotten: list[StreamScorer] = []
    record: Any = Record(stream.scorer)
    supervisor = ScoringSupervisor(record, stream.streams, stream.inference)
    supervisor.start()
    stream.numbers(1)
    until(lambda: len(stream.results()) == 1)
    record.running = list
    until(lambda: not supervisor._workers)
    stream.numbers(2)
    record.running = lambda: [stream.scorer]
    until(lambda: len(stream.results()) == 2)
    record.running, record.deleted = list, lambda: [stream.scorer]
    record.forget = forgotten.append
    until(lambda: bool(forgotten) and not supervisor._workers)
    assert stream.client.xinfo_groups(stream.keys.source) == []
    supervisor.stop()


def test_a_supervisor_that_is_told_looks_at_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_supervisor, "LOOK_S", 60.0)
    record: Any = Record(stream.scorer)
    record.running = list
    supervisor = ScoringSupervisor(record, stream.streams, stream.inference)
    supervisor.start()
    record.running = lambda: [stream.scorer]
    supervisor.notify()
    stream.numbers(1)
    until(lambda: len(stream.results()) == 1)
    record.running = list
    supervisor.notify()
    # Until its thread has ended it is looked for again, without being told.
    until(lambda: not supervisor._workers)
    supervisor.stop()
