"""The closed loop as a story of six steps, and what came of it."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from client.errors import ModelyardError
from client.sdk import Client
from examples.flights import definitions, report
from examples.flights.data import flights_between, request_table
from examples.flights.definitions import ENDPOINT, NAME, PIPELINE, Pace
from examples.flights.drive import (
    History,
    Ledger,
    Traffic,
    history_until,
    instances_of,
    ticks_of,
)
from examples.flights.replay import Tick, replay_plan
from examples.flights.watch import UNDER_WAY, Watch

Json = dict[str, Any]

RUN_TIMEOUT = 180.0
HOLD_TIMEOUT = 120.0
LAST_WORDS = 30.0
"""Seconds that a rollout may take after the last outcome."""
STYLES = {"alert": "yellow", "run": "cyan", "step": "dim", "rollout": "magenta", "time": "dim"}


@dataclass(frozen=True)
class Script:
    """How much of the year the story covers.

    Attributes:
        trained_until: End of the first model's data.
        start: Begin of the replayed traffic; everything before it is history.
        end: End of the replayed traffic.
        sample: Share of the flights that a prediction is asked for.
        step: Length of a tick of the replay.
        fault_by: When the broken challenger is put up at the latest.
        pace: How much evidence each decision takes.
    """

    trained_until: datetime = datetime(2013, 4, 1, tzinfo=UTC)
    start: datetime = datetime(2013, 4, 1, tzinfo=UTC)
    end: datetime = datetime(2013, 9, 1, tzinfo=UTC)
    sample: float = 0.3
    step: timedelta = timedelta(hours=3)
    fault_by: datetime = datetime(2013, 8, 1, tzinfo=UTC)
    pace: Pace = field(default_factory=Pace)


FULL = Script()
FAST = Script(
    start=datetime(2013, 6, 3, tzinfo=UTC),
    end=datetime(2013, 7, 13, tzinfo=UTC),
    fault_by=datetime(2013, 6, 29, tzinfo=UTC),
    pace=Pace(persistence=2, step_samples=200),
)


@dataclass
class Outcome:
    """What the story came to."""

    first_run: Json = field(default_factory=dict)
    answer: Json = field(default_factory=dict)
    broken_run: Json = field(default_factory=dict)
    broken_rollout: Json = field(default_factory=dict)
    alerts: list[Json] = field(default_factory=list)
    runs: list[Json] = field(default_factory=list)
    rollouts: list[Json] = field(default_factory=list)
    references: list[Json] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def drift_runs(self) -> list[Json]:
        """Runs that drift has started."""
        return [run for run in self.runs if run["trigger"]["kind"] == "KIND_DRIFT"]

    @property
    def missing(self) -> list[str]:
        """What did not happen and should have."""
        promoted = {r["model_version"] for r in self.rollouts if r["state"] == "STATE_PROMOTED"}
        followed = {each["reference_model_version"] for each in self.references}
        wanted = {
            "drift was alerted": any(each["kind"] == "drift" for each in self.alerts),
            "drift started a retraining": bool(self.drift_runs),
            "a good challenger was promoted": bool(promoted),
            "the drift reference followed a promotion": bool(promoted & followed),
            "the gate refused the broken challenger": (
                self.broken_run.get("state") == "STATE_REFUSED"
            ),
            "the judge rolled the broken challenger back": (
                self.broken_rollout.get("state") == "STATE_ROLLED_BACK"
            ),
        }
        return [text for text, happened in wanted.items() if not happened]


class Story:
    """Walks the closed loop on a suite that is up."""

    def __init__(self, client: Client, script: Script, console: Console) -> None:
        self.client = client
        self.script = script
        self.console = console
        self.outcome = Outcome()
        self.now = script.start
        self.watch = Watch(client, self._say)

    def run(self) -> Outcome:
        """Tells steps 2 to 6."""
        self.prepare_features()
        self.train_first()
        self.ask()
        self.replay()
        self.summarize()
        return self.outcome

    def prepare_features(self) -> None:
        """Step 2: definitions, history, online store."""
        self._title(2, f"Features, and history up to {self.script.start:%-d %B}")
        changes = self.client.post("featureDefinitions:apply", definitions.feature_definitions())[
            "changes"
        ]
        self._line(f"{len(changes)} definitions applied")
        with self._bar("ingesting") as bar:
            task = bar.add_task("", total=6)
            rows = 0
            for source, table in history_until(self.script.start):
                rows += self.client.ingest(source, table)
                bar.advance(task)
        self._line(f"{rows:,} rows of history ingested")
        end = self.script.start + timedelta(microseconds=1)
        done = self.client.post(
            "materializations",
            {"start_time": "2013-01-01T00:00:00Z", "end_time": end.isoformat()},
            timeout=120,
        )
        self._line(f"{int(done['row_count']):,} entities materialized to the online store")

    def train_first(self) -> None:
        """Step 3: a pipeline run on the first months, deployed to a new endpoint."""
        script = self.script
        self._title(3, f"A pipeline run on the flights up to {script.trained_until:%-d %B}")
        self.client.create("endpoints", NAME, definitions.endpoint())
        self.client.create("pipelines", NAME, definitions.pipeline(script.pace))
        began = {
            "window_end": script.trained_until.isoformat(),
            "trigger": {"kind": "KIND_MANUAL", "reason": "the first version"},
        }
        run = self._run_to_end(began)
        if run["state"] != "STATE_SUCCEEDED":
            raise ModelyardError(f"the first run is {run['state']}: {run['reason']}")
        self.outcome.first_run = run
        version = self.client.get(run["model_version"])
        lineage = version["lineage"]
        self._line(f"lineage: code {lineage['code_commit'][:12]}, {lineage['training_set'][:26]}")
        monitor = definitions.monitor(run["training_set"], script.pace)
        self.client.create("monitors", NAME, monitor)

    def ask(self) -> None:
        """Step 4: a prediction by entity keys, and one by the Open Inference Protocol."""
        self._title(4, "The endpoint answers")
        self.client.wait(ENDPOINT, until=["STATE_READY"], timeout=60)
        flights = flights_between(self.script.start, self.script.start + timedelta(days=1))
        instance = dict(instances_of(request_table(flights.iloc[100:101]))[0])
        # The replay has a time of its own, by which the monitor's windows go.
        when = self.script.start
        body = {
            "instances": [instance],
            "event_times": [when.isoformat()],
            "return_features": True,
        }
        self._line(f"POST /v1/{ENDPOINT}:predict {instance}", style="dim")
        answer = self.client.post(f"{ENDPOINT}:predict", body)["predictions"][0]
        self.outcome.answer = answer
        shown = {
            name: round(v, 2) for name, v in answer["features"].items() if v != instance.get(name)
        }
        self._line(f"{answer['outputs']['score']:.3f} by {answer['variant']} of features {shown}")
        tensors = {
            name: ("BYTES" if isinstance(value, str) else "FP64", [value])
            for name, value in instance.items()
        }
        self._line(f"POST /v2/models/{NAME}/infer", style="dim")
        found = self.client.infer(NAME, tensors, event_time=when)
        output = found["outputs"][0]
        self._line(f"{output['name']} {output['data'][0]:.3f} by version {found['model_version']}")

    def replay(self) -> None:
        """Step 5: the season goes by, labels come late, and the loop closes."""
        script, ledger = self.script, self.outcome.ledger
        self._title(5, f"{script.start:%-d %B} to {script.end:%-d %B} as traffic")
        plan = replay_plan(script.start, script.end, script.sample, step=script.step)
        history = History(self.client, ledger, script.start)
        with Traffic(self.client, ledger) as traffic, self._bar("replaying") as bar:
            task = bar.add_task("", total=plan.totals.requests)
            for tick in ticks_of(plan):
                self._pass_time(tick.time)
                history.catch_up(tick.time)
                traffic.serve(tick)
                done = len(ledger.asked)
                bar.update(task, completed=done, description=f"{tick.time:%-d %b}")
                self._react(tick, history)
            traffic.finish()
        self._hear_the_end()

    def summarize(self) -> None:
        """Step 6: what happened, in tables."""
        self._title(6, "Summary")
        watch, ledger, console = self.watch, self.outcome.ledger, self.console
        console.print(report.versions_table(self.client, watch))
        console.print(report.alerts_table(watch))
        console.print(report.references_table(watch))
        console.print(report.rollouts_table(watch))
        console.print(report.traffic_table(self.client, watch))
        console.print(report.quality_table(report.qualities(self.client), ledger))
        for missing in self.outcome.missing:
            console.print(f"[red]did not happen:[/] {missing}")
        if not self.outcome.missing:
            console.print(
                "[green]the loop is closed[/]: found, retrained, judged, promoted, undone"
            )

    def _react(self, tick: Tick, history: History) -> None:
        """Looks at the loop and does what a person would do: wait, and try a broken model."""
        self.watch.poll()
        self._hold("a run is under way", lambda: self.watch.training)
        self._hold("a challenger is being loaded", lambda: self.watch.loading)
        due = self.watch.promoted() or tick.time >= self.script.fault_by
        if due and not self.outcome.broken_run and not self.watch.rolling_out:
            history.catch_up(tick.time, at_once=True)
            self._break()

    def _break(self) -> None:
        """Trains a challenger on shuffled inputs and puts it up against the gate's word."""
        self._say("time", "now a deliberately broken challenger: its features are shuffled")
        run = self._run_to_end(
            {
                "window_end": self.now.isoformat(),
                "trigger": {"kind": "KIND_MANUAL", "reason": "fault drill: shuffled features"},
                "trainer_config": {"shuffle_inputs": True},
            }
        )
        self.outcome.broken_run = run
        if run["gate"]["outcome"] != "OUTCOME_REFUSED":
            raise ModelyardError(f"the gate has not refused a broken model: {run['gate']}")
        self._say("time", "the gate has refused it; it is put up by hand all the same")
        rollout = {
            "model_version": run["model_version"],
            "strategy": definitions.strategy(self.script.pace),
        }
        self.outcome.broken_rollout = self.client.post(f"{ENDPOINT}/rollouts", rollout)
        self.watch.poll(at_once=True)
        self._hold("a challenger is being loaded", lambda: self.watch.loading)

    def _hear_the_end(self) -> None:
        """Waits for what is still under way, and keeps what the story came to."""
        deadline = time.monotonic() + LAST_WORDS
        self.watch.poll(at_once=True)
        while self._under_way() and time.monotonic() < deadline:
            time.sleep(0.2)
            self.watch.poll()
        outcome = self.outcome
        outcome.alerts, outcome.runs = self.watch.alerts, self.watch.runs
        outcome.rollouts, outcome.references = self.watch.rollouts, self.watch.references
        for rollout in self.watch.rollouts:
            if rollout["name"] == outcome.broken_rollout.get("name"):
                outcome.broken_rollout = rollout

    def _under_way(self) -> bool:
        watch = self.watch
        return watch.training or watch.rolling_out or watch.following

    def _run_to_end(self, request: Json) -> Json:
        name = self.client.post(f"{PIPELINE}:run", request)["name"]
        deadline = time.monotonic() + RUN_TIMEOUT
        while True:
            self.watch.poll(at_once=True)
            run = next(run for run in self.watch.runs if run["name"] == name)
            if run["state"] not in UNDER_WAY:
                return run
            if time.monotonic() > deadline:
                raise ModelyardError(f"{name} does not end")
            time.sleep(0.2)

    def _hold(self, why: str, busy: Callable[[], bool]) -> None:
        """Lets simulated time wait, so that it doesn't run away from what takes real time."""
        began = time.monotonic()
        while busy() and time.monotonic() - began < HOLD_TIMEOUT:
            time.sleep(0.1)
            self.watch.poll()
        if (waited := time.monotonic() - began) > 1.0:
            self._say("time", f"simulated time waited {waited:.0f} s: {why}")

    def _pass_time(self, now: datetime) -> None:
        self.now = now
        self.watch.tell_time(datetime.now(UTC), now)

    def _bar(self, text: str) -> Progress:
        columns = (
            TextColumn(f"  {text} {{task.description}}"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TimeElapsedColumn(),
        )
        return Progress(*columns, console=self.console, transient=True)

    def _title(self, number: int, text: str) -> None:
        self.console.print(f"\n[bold]{number}. {text}[/]")

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(f"  {text}", style=style, markup=False, highlight=False)

    def _say(self, kind: str, text: str) -> None:
        when = f"{self.now:%-d %b}" if self.outcome.first_run and kind != "step" else ""
        indent = f"  {when:>6}  " if self.outcome.first_run else "  "
        lines = textwrap.fill(
            text,
            self.console.width - 1,
            initial_indent=f"{indent}  " if kind == "step" else indent,
            subsequent_indent=" " * (len(indent) + 4),
        )
        self.console.print(lines, style=STYLES[kind], markup=False, highlight=False)
