"""The other services and tools of training in a folder, so that they outlive a killed process."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition, NotFound, Unavailable
from service_kit.sandbox import Limits
from tests.training_svc.examples import WHEN
from training_svc.conversion_workflow import Converter
from training_svc.domain.pipelines import PipelineRun, TrainerSpec
from training_svc.fitting import Task, Trouble, fit_here
from training_svc.plugins import make_validator
from training_svc.ports import Champion, Check, Document
from training_svc.provenance import Provenance
from training_svc.quantization import quantize
from training_svc.scoring import load_model
from training_svc.steps import Collecting, Judging, Learning, Releasing, Shaping, Steps
from training_svc.steps.job import inputs_of
from training_svc.tables import ArrowTable
from training_svc.trainers import Fitted

ENDPOINT = "endpoints/late-arrival"
BEGIN = WHEN - timedelta(days=90)


def flights(rows: int = 3000, seed: int = 0) -> pa.Table:
    """Labelled rows over 90 days, with the feature that a join will add; they end at `WHEN`."""
    generator = np.random.default_rng(seed)
    seconds = np.sort(generator.uniform(0, timedelta(days=90).total_seconds(), rows))
    departed = np.datetime64(BEGIN.replace(tzinfo=None), "us") + (seconds * 1e6).astype("m8[us]")
    carrier = generator.choice(["AA", "DL", "UA"], rows)
    delay = generator.normal(0, 1, rows)
    hour = generator.integers(0, 24, rows)
    drive = 1.5 * delay + 0.1 * hour + (carrier == "UA")
    late = (drive + generator.normal(0, 1, rows) > 2.2).astype(np.int64)
    delay[generator.random(rows) < 0.05] = np.nan
    return pa.table(
        {
            "departed": pa.array(departed, pa.timestamp("us", "UTC")),
            "landed": pa.array(departed + np.timedelta64(2, "h"), pa.timestamp("us", "UTC")),
            "late": late,
            "hour": hour,
            "carrier": carrier,
            "delay": delay,
        }
    )


class World:
    """All ports of a run's steps.

    Attributes:
        away: Ports that do not answer now: `features`, `registry`, `serving` or `tracking`.
    """

    def __init__(self, folder: Path, table: pa.Table | None = None) -> None:
        self.folder = folder
        self.table = flights() if table is None else table
        self.away: set[str] = set()
        for name in ("artifacts", "answers", "versions"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def steps(self) -> Steps:
        """The steps over this world."""
        features, registry = FakeFeatures(self), FakeRegistry(self)
        found = Provenance("c0ffee", "e" * 64)
        return Steps(
            collecting=Collecting(features, make_validator),
            learning=Learning(
                features, registry, FakeJobs(self), Shaping(load_model, quantize), lambda: found
            ),
            judging=Judging(features, registry, load_model, load_model, FakeTracking(self)),
            releasing=Releasing(registry, FakeServing(self)),
        )

    @property
    def registry(self) -> FakeRegistry:
        """The registry of this world."""
        return FakeRegistry(self)

    @property
    def converter(self) -> Converter:
        """What converts over this world; in real children."""
        return Converter(self.registry, Limits(seconds=120.0, memory_bytes=4 << 30))

    @property
    def journal(self) -> list[str]:
        """What happened, line by line."""
        path = self.folder / "journal"
        return path.read_text().splitlines() if path.exists() else []

    def note(self, line: str) -> None:
        """Writes a line into the journal."""
        with (self.folder / "journal").open("a") as file:
            file.write(line + "\n")

    @property
    def stall(self) -> Path:
        """While this file exists, training does not come to its end."""
        return self.folder / "stall"

    @property
    def versions(self) -> list[Document]:
        """Registered versions, oldest first."""
        count = len(list((self.folder / "versions").iterdir()))
        return [
            json.loads((self.folder / "versions" / str(at + 1)).read_text()) for at in range(count)
        ]

    def promote(self, number: int) -> None:
        """Makes a version the champion."""
        (self.folder / "champion").write_text(str(number))

    @property
    def champion(self) -> str:
        """Name of the champion; empty without one."""
        path = self.folder / "champion"
        return f"models/late-arrival/versions/{path.read_text()}" if path.exists() else ""

    def once(self, request_id: str, body: Any, effect: Any) -> Any:
        """An effect with an idempotency key, as a peer has it."""
        assert 0 < len(request_id) <= 128
        text = json.dumps(body, sort_keys=True, default=str)
        path = self.folder / "answers" / hashlib.sha256(request_id.encode()).hexdigest()
        if path.exists():
            kept = json.loads(path.read_text())
            assert kept["body"] == text, "the same request id with another body"
            return kept["answer"]
        answer = effect()
        path.write_text(json.dumps({"body": text, "answer": answer}))
        return answer

    def ask(self, port: str) -> None:
        """Refuses while a port is away."""
        if port in self.away:
            raise Unavailable("PEER_UNAVAILABLE", f"{port} does not answer")


class FakeFeatures:
    """Snapshots are windows of the table; joining adds the column `delay`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def snapshot(
        self, source: str, start: datetime | None, end: datetime, known_by: str, request_id: str
    ) -> str:
        self._world.ask("features")
        first = (start or BEGIN).timestamp()
        body = [source, first, end.timestamp(), known_by]
        name = f"snapshots/{first:.0f}-{end.timestamp():.0f}"
        return str(self._world.once(request_id, body, lambda: name))

    def read_snapshot(self, snapshot: str) -> ArrowTable:
        return ArrowTable(self._rows(snapshot).drop_columns(["delay"]))

    def training_set(self, snapshot: str, feature_service: str, request_id: str) -> Document:
        name = "trainingSets/" + snapshot.partition("/")[2]
        made = {
            "training_set": name,
            "definitions_hash": "d" * 64,
            "rows": self._rows(snapshot).num_rows,
        }
        answer: Document = self._world.once(request_id, [snapshot, feature_service], lambda: made)
        return answer

    def read_training_set(self, training_set: str) -> ArrowTable:
        return ArrowTable(self._rows(training_set))

    def timestamp_field(self, source: str) -> str:
        return "departed"

    def join_keys(self, feature_service: str) -> tuple[str, ...]:
        return ("carrier",)

    def feature_names(self, feature_service: str) -> tuple[str, ...]:
        return ("delay",)

    def _rows(self, name: str) -> pa.Table:
        first, last = (int(float(each)) for each in name.partition("/")[2].split("-"))
        table = self._world.table
        seconds = np.asarray(table["departed"].cast(pa.int64())) / 1e6
        return table.filter(pa.array((seconds >= first) & (seconds < last)))


class FakeRegistry:
    """Artifacts and versions as files."""

    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, content: bytes) -> str:
        self._world.ask("registry")
        digest = hashlib.sha256(content).hexdigest()
        (self._world.folder / "artifacts" / digest).write_bytes(content)
        return f"artifacts/{digest}"

    def read(self, artifact: str, most_bytes: int = 1 << 30) -> bytes:
        path = self._world.folder / artifact
        if not path.is_file():
            raise NotFound("ARTIFACT_NOT_FOUND", "no such artifact")
        assert path.stat().st_size <= most_bytes
        return path.read_bytes()

    def champion(self, model: str) -> Champion | None:
        self._world.ask("registry")
        return self.version(self._world.champion) if self._world.champion else None

    def version(self, name: str) -> Champion:
        try:
            found = self._world.versions[int(name.rpartition("/")[2]) - 1]
        except IndexError as error:
            raise NotFound("VERSION_NOT_FOUND", "no such version") from error
        model = next(each for each in found["artifacts"] if each[0] == "model")
        tag = found["tags"]["modelyard.window_end"]
        return Champion(
            name, found["runtime"], model[2], inputs_of(found), datetime.fromisoformat(tag)
        )

    def ensure_model(self, model: str, owner: str, request_id: str) -> None:
        self._world.once(request_id, [model, owner], lambda: self._world.note(f"model {model}"))

    def register(self, model: str, version: Document, request_id: str) -> str:
        self._world.ask("registry")

        def effect() -> str:
            number = len(self._world.versions) + 1
            (self._world.folder / "versions" / str(number)).write_text(json.dumps(version))
            self._world.note(f"register {number}")
            return f"{model}/versions/{number}"

        return str(self._world.once(request_id, version, effect))


class FakeServing:
    """Deploys at once; rollouts are noted only."""

    def __init__(self, world: World) -> None:
        self._world = world

    def champion_version(self, endpoint: str) -> str:
        self._world.ask("serving")
        return self._world.champion

    def deploy(self, endpoint: str, version: str, reason: str, request_id: str) -> None:
        def effect() -> None:
            self._world.note(f"deploy {version}")
            self._world.promote(int(version.rpartition("/")[2]))

        self._world.once(request_id, [endpoint, version, reason], effect)

    def roll_out(
        self, endpoint: str, version: str, strategy: Mapping[str, Any], request_id: str
    ) -> str:
        self._world.once(
            request_id,
            [endpoint, version, dict(strategy)],
            lambda: self._world.note(f"roll out {version}"),
        )
        return f"{endpoint}/rollouts/1"


class FakeJobs:
    """Trains in this process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def fit(
        self,
        spec: TrainerSpec,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
        check: Check,
    ) -> Fitted:
        self._world.note(f"fit {len(labels)}")
        while self._world.stall.exists():
            check()
            time.sleep(0.01)
        task = Task(
            spec.trainer, dict(spec.config), spec.cpus, 0, list(names), seed, inputs, labels
        )
        answer = fit_here(task)
        if isinstance(answer, Trouble):
            raise FailedPrecondition(answer.reason, answer.message)
        return answer


class FakeTracking:
    """Notes what is logged."""

    def __init__(self, world: World) -> None:
        self._world = world

    def log(
        self,
        experiment: str,
        run: PipelineRun,
        parameters: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
    ) -> str:
        self._world.ask("tracking")
        self._world.note(f"track {experiment} {len(files)} plots")
        return f"tracked-{run.id}"
