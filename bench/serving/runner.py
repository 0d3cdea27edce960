"""Measures servers one after the other, round after round, so that noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby

from bench.serving.check import WrongAnswerError, compare
from bench.serving.contender import WORKLOADS, Contender, Place, Running, Workload
from bench.serving.cpu import snapshot, spent
from bench.serving.load import GeneratorError, run_load
from bench.serving.processes import StartError
from bench.serving.results import Measured, Record, Results, begin
from client.errors import ModelyardError

#: Seconds that a server is left alone once it has answered, for what it does after its start.
SETTLE_S = 5.0
WARM_UP_S = 1.0

Progress = Callable[[str], None]
"""Told what is done next; each call is one step further."""

_PROBLEMS = (StartError, WrongAnswerError, GeneratorError, ModelyardError, TimeoutError)


class Runner:
    """A benchmark.

    Args:
        seconds: How long each workload is measured, a round.
        settle: How long a server is left alone after its start.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        workloads: Sequence[Workload],
        place: Place,
        rounds: int,
        seconds: float,
        settle: float = SETTLE_S,
    ) -> None:
        self._contenders = contenders
        self._workloads = workloads
        self._place = place
        self._rounds = rounds
        self._seconds = seconds
        self._settle = settle

    @property
    def steps(self) -> int:
        """How often `Progress` is told something."""
        each_round = len(self._contenders) * (1 + len(self._workloads))
        return len(self._contenders) + self._rounds * each_round

    def run(self, progress: Progress) -> Results:
        """Makes the environments, then measures."""
        records = [Record(each.name, each.title, each.how) for each in self._contenders]
        for contender, record in zip(self._contenders, records, strict=True):
            progress(f"{contender.title}: environment")
            try:
                contender.prepare(self._place)
                record.versions = contender.versions(self._place)
            except _PROBLEMS as problem:
                record.problem = f"can't be installed: {problem}"
        results = begin(self._rounds, self._seconds, records)
        pairs = list(zip(self._contenders, records, strict=True))
        for number in range(self._rounds):
            for _, neighbours in groupby(pairs, key=lambda pair: pair[0].server):
                self._server(f"round {number + 1}", list(neighbours), progress)
        return results

    def _server(
        self, label: str, neighbours: Sequence[tuple[Contender, Record]], progress: Progress
    ) -> None:
        running: Running | None = None
        try:
            for contender, record in neighbours:
                progress(f"{label}, {contender.title}: start")
                if record.problem:
                    continue
                try:
                    running = contender.start(self._place, running)
                except _PROBLEMS as problem:
                    record.problem = str(problem)
                    continue
                time.sleep(self._settle)
                for workload in self._workloads:
                    progress(f"{label}, {contender.title}: {workload.title}")
                    self._measure(running, workload, record)
        finally:
            if running is not None:
                running.tree.stop()

    def _measure(self, running: Running, workload: Workload, record: Record) -> None:
        if workload.name not in running.exchanges:
            return
        measured: Measured | None = None
        try:
            measured, difference = measure(running, workload, self._seconds)
            record.difference = max(record.difference, difference)
        except _PROBLEMS as problem:
            record.problem = f"{workload.title}: {problem}"
        record.rounds.setdefault(workload.name, []).append(measured)


def measure(running: Running, workload: Workload, seconds: float) -> tuple[Measured, float]:
    """Checks the answers, warms up, and measures; gives the largest difference found too.

    Raises:
        WrongAnswerError: The server does not answer as the model does.
        GeneratorError: The load generator has failed.
    """
    exchange = running.exchanges[workload.name]
    checked = compare(running.base, exchange, running.accepted)
    connections, size = workload.connections, checked.answer_bytes
    run_load(running.base, exchange, connections, WARM_UP_S, size)
    parts = running.tree.pid, running.group, running.strays
    before = snapshot(*parts)
    load = run_load(running.base, exchange, connections, seconds, size)
    used = spent(before, snapshot(*parts))
    if not load.requests:
        raise WrongAnswerError("no answers under load")
    by_part = {part: second * 1e6 / load.requests for part, second in used.items()}
    measured = Measured(
        rps=load.requests / load.seconds,
        p50_ms=load.p50_ms,
        p95_ms=load.p95_ms,
        p99_ms=load.p99_ms,
        requests=load.requests,
        errors=load.errors,
        cpu_us=sum(by_part.values()),
        cpu_us_by_part=by_part,
        generator_cpu_us=load.generator_cpu_s * 1e6 / load.requests,
    )
    return measured, checked.difference


def chosen(names: Sequence[str]) -> Sequence[Workload]:
    """Workloads by their names; all when there are none."""
    return [each for each in WORKLOADS if not names or each.name in names]
