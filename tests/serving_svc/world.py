"""A small world for the use cases: fakes of the ports, and a record on SQLite."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select

from service_kit.clock import FixedClock
from service_kit.database import reading
from service_kit.errors import DomainError, NotFound, Unavailable
from serving_svc.domain import (
    AppState,
    AppStatus,
    Decision,
    Deployment,
    Endpoint,
    Look,
    ModelVersion,
    Replica,
    Rollout,
    Strategy,
)
from serving_svc.service import (
    DataPlane,
    DeployWorkflow,
    Reconciler,
    RequestKey,
    RolloutService,
    RolloutWorkflow,
    ServingService,
)
from serving_svc.service.deploys import Loader
from serving_svc.service.endpoints import DEPLOY_WORKFLOW
from serving_svc.service.rollouts import ROLLOUT_WORKFLOW
from serving_svc.storage import SqlStore
from serving_svc.storage.tables import OUTBOX

NOW = datetime(2013, 4, 1, tzinfo=UTC)
MODEL = "models/delay"
V1, V2, V3 = (f"{MODEL}/versions/{n}" for n in (1, 2, 3))
#: A strategy that is quick to walk through.
QUICK = Strategy(step_min_samples=10, max_samples=1_000, interval=timedelta(milliseconds=50))


class Killed(BaseException):
    """Stands for kill -9."""


@dataclass
class FakeRegistry:
    """Versions 1 to 9 of one model, and what was asked of them."""

    stages: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, DomainError] = field(default_factory=dict)
    seen: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def version(self, name: str) -> ModelVersion:
        if "/aliases/" in name:
            name = self.aliases[name.rpartition("/")[2]]
        if not name.rpartition("/")[2].isdecimal():
            raise NotFound("VERSION_NOT_FOUND", "no such version")
        return ModelVersion(name, "onnx", "ab" * 32, 3, 1, b"", "onnx")

    def set_alias(self, model: str, alias: str, version: str, reason: str, request_id: str) -> None:
        self._once(request_id, model, alias, version)
        self.aliases[alias] = version

    def transition(self, version: str, stage: str, reason: str, request_id: str) -> None:
        if stage in self.refuses:
            raise self.refuses[stage]
        self._once(request_id, version, stage)
        self.stages[version] = stage

    def _once(self, request_id: str, *body: str) -> None:
        # As the registry does: one key, one request.
        assert request_id
        assert self.seen.setdefault(request_id, body) == body


@dataclass
class FakeExperiments:
    """A judge that says what the test puts into its mouth."""

    say: Callable[[int], Look | None] = lambda n: Look(Decision.SHIP, ("better",), n * 10)
    looks: int = 0
    created: dict[str, bool] = field(default_factory=dict)
    concluded: dict[str, str] = field(default_factory=dict)

    def create(self, rollout: Rollout, *, paired: bool, request_id: str) -> str:
        name = f"experiments/rollout-{rollout.rollout_id}"
        self.created[name] = paired
        return name

    def analyze(self, experiment: str, *, count_control: bool) -> Look:
        self.looks += 1
        look = self.say(self.looks)
        if look is None:
            raise Unavailable("DOWN", "the judge is away")
        return look

    def conclude(self, experiment: str, conclusion: str, request_id: str) -> None:
        self.concluded[experiment] = conclusion


@dataclass
class FakeControl:
    """Replicas that report as soon as they are asked for."""

    dataplane: DataPlane
    clock: FixedClock
    apps: dict[str, AppStatus] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)

    def apply(self, deployment: Deployment) -> None:
        self.versions[deployment.app] = deployment.version.name
        if deployment.version.name in self.broken:
            self.apps[deployment.app] = AppStatus(AppState.FAILED, "trace\nno such runtime")
            return
        self.scale(deployment.app, deployment.replicas)

    def scale(self, app: str, replicas: int) -> None:
        before = self.apps.get(app, AppStatus(AppState.RUNNING)).replicas
        self.apps[app] = AppStatus(AppState.RUNNING, "", replicas, replicas)
        for n in range(max(before, replicas)):
            self.report(app, n, draining=n >= replicas)

    def remove(self, app: str) -> None:
        del self.apps[app]
        self.report(app, 0, draining=True)

    def status(self) -> dict[str, AppStatus]:
        return dict(self.apps)

    def report(self, app: str, n: int, *, draining: bool = False) -> None:
        address = f"127.0.0.1:{n + 1}"
        version = self.versions[app]
        self.dataplane.report(
            Replica(f"{app}-{n}", version, address, 0, 0, draining, self.clock.now())
        )


@dataclass
class FakeContext:
    """Records the answers of steps; `kill_at` ends the process after that step's effect."""

    workflow_id: str
    journal: dict[int, str]
    kill_at: int = -1
    count: int = 0
    interrupted: bool = False

    def step(
        self, name: str, function: Callable[..., Any], *args: Any, retries: int = 3, **_: Any
    ) -> Any:
        if self.interrupted:
            raise Killed
        at, self.count = self.count, self.count + 1
        if at not in self.journal:
            answer = json.dumps(function(*args))
            if at == self.kill_at:
                raise Killed
            self.journal[at] = answer
        return json.loads(self.journal[at])


@dataclass
class FakeEngine:
    """Runs workflows when told to, in the caller's thread."""

    functions: dict[str, Callable[..., dict[str, Any]]] = field(default_factory=dict)
    started: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    journals: dict[str, dict[int, str]] = field(default_factory=dict)
    context: FakeContext | None = None

    def start(self, name: str, workflow_id: str, given: dict[str, Any]) -> None:
        self.started.setdefault(workflow_id, (name, given))

    def run(self, kill_at: int = -1) -> dict[str, Any]:
        """Run the latest workflow from its start."""
        workflow_id = list(self.started)[-1]
        name, given = self.started[workflow_id]
        journal = self.journals.setdefault(workflow_id, {})
        self.context = FakeContext(workflow_id, journal, kill_at)
        return self.functions[name](self.context, given)


class World:
    """Everything wired, with fakes where the outside would be."""

    def __init__(self, sql: Engine) -> None:
        self.clock = FixedClock(NOW)
        self.sql = sql
        self.store = SqlStore(self.sql, self.clock)
        self.registry, self.judge, self.engine = FakeRegistry(), FakeExperiments(), FakeEngine()
        self.dataplane = DataPlane(self.store, self.clock, settling=0.0)
        self.control = FakeControl(self.dataplane, self.clock)
        self.reconciler = Reconciler(self.store, self.control)
        wake = self.reconcile
        common = (self.store, self.registry, self.dataplane, self.engine, self.clock, wake)
        self.endpoints, self.rollouts = ServingService(*common), RolloutService(*common)
        loader = Loader(self.store, self.dataplane, timeout=0.5)
        deploys = DeployWorkflow(
            self.store, self.registry, self.dataplane, loader, self.clock, wake
        )
        ramp = RolloutWorkflow(
            self.store, self.registry, self.judge, self.dataplane, loader, self.clock, wake
        )
        self.engine.functions = {DEPLOY_WORKFLOW: deploys.run, ROLLOUT_WORKFLOW: ramp.run}

    def reconcile(self) -> None:
        for _ in range(3):
            self.reconciler.reconcile_once()

    def create(self, **given: Any) -> Endpoint:
        endpoint = Endpoint("late", MODEL, NOW, outcome_independent=True, **given)
        view = self.endpoints.create_endpoint(endpoint, "keys/me", key())
        return view.endpoint

    def deploy(self, version: str = V1) -> None:
        self.endpoints.deploy_version("late", version, "because", "keys/me", key())
        self.engine.run()

    def begin(self, version: str = V2, strategy: Strategy = QUICK) -> Rollout:
        """Start a rollout; its workflow is still to be run."""
        return self.rollouts.create_rollout("late", version, strategy, "keys/me", key())

    def rollout(self) -> Rollout:
        with self.store.read() as unit:
            return unit.rollouts("late", "", 1)[0]

    def table(self) -> Any:
        return self.endpoints.get_endpoint("late").table

    def shares(self) -> dict[str, float]:
        return {variant.name: variant.weight for variant in self.table().variants}

    def loaded(self) -> set[str]:
        return set(self.dataplane.live())

    def changes(self) -> list[str]:
        from modelyard.events.v1 import events_pb2

        with reading(self.sql) as session:
            rows = session.execute(select(OUTBOX.c.payload).order_by(OUTBOX.c.position)).all()
        return [events_pb2.ChangeEvent.FromString(row.payload).action for row in rows]


class Kept:
    """An answer that can be kept, as a message would be."""

    def __init__(self, text: str) -> None:
        self.text = text

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.text.encode()


def key() -> RequestKey[Any, Any]:
    """The key of a request whose caller asks for no care; the answer is the domain object."""
    return RequestKey("test", "", b"", lambda answer: answer, lambda kept: kept)
