"""The durable workflow of a deployment: load, then switch all the traffic (blue-green)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from service_kit.clock import Clock
from service_kit.errors import DomainError, FailedPrecondition, NotFound
from serving_svc.domain import Change, TrafficTable, traffic
from serving_svc.service import loading
from serving_svc.service.dataplane import DataPlane
from serving_svc.service.ports import Registry, Store, Unit, WorkflowContext

#: Seconds for a version's replicas to load and report.
LOAD_TIMEOUT_S = 120.0
LOOK_S = 0.5
CHAMPION = "champion"
#: Tries of a call to the registry once the traffic is switched: some ten minutes.
PATIENT = 12


class Loader:
    """Waits for the replicas of a version."""

    def __init__(self, store: Store, dataplane: DataPlane, timeout: float = LOAD_TIMEOUT_S) -> None:
        self._store = store
        self._dataplane = dataplane
        self._timeout = timeout

    def wait(self, context: WorkflowContext, endpoint_id: str, version: str) -> bool:
        """Whether the version answers; False only when the workflow is asked to end meanwhile.

        All its replicas are waited for half of the time, the fewest that it may have afterwards.

        Raises FailedPrecondition (`VERSION_NOT_LOADED`) when it fails or takes too long.
        """
        left = self._timeout
        while not context.interrupted:
            with self._store.read() as unit:
                endpoint = unit.endpoint(endpoint_id)
                failure = loading.failure_of(unit, endpoint, version)
                wanted = loading.replicas_of(unit, endpoint, version)
            if not failure and left <= 0:
                failure = "the version took too long to load"
            if failure:
                raise FailedPrecondition("VERSION_NOT_LOADED", failure)
            enough = wanted if left > self._timeout / 2 else endpoint.min_replicas
            if self._dataplane.wait_live(version, enough, LOOK_S):
                return True
            left -= LOOK_S
        return False


@dataclass(frozen=True, slots=True)
class _Deploy:
    """Input of the workflow, with the workflow's own id."""

    endpoint_id: str
    model_version: str
    actor: str
    reason: str
    salt: str
    workflow_id: str


class DeployWorkflow:
    """Steps of a deployment; each may run twice with the effect of once."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        dataplane: DataPlane,
        loader: Loader,
        clock: Clock,
        reconcile: Callable[[], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._dataplane = dataplane
        self._loader = loader
        self._clock = clock
        self._reconcile = reconcile

    def run(self, context: WorkflowContext, given: dict[str, Any]) -> dict[str, Any]:
        """Load the version, let the registry agree, switch, and put it on record."""
        deploy = _Deploy(**given, workflow_id=context.workflow_id)
        try:
            while not context.step(
                "load", self._loader.wait, context, deploy.endpoint_id, deploy.model_version
            ):
                pass
            context.step("stage", self._enter_production, deploy)
            before = context.step("switch", self._switch, deploy)
        except DomainError as error:
            context.step("fail", self._fail, deploy, error.message)
            return {"state": "FAILED"}
        try:
            context.step("alias", self._move_alias, deploy, retries=PATIENT)
            if before:
                context.step("archive", self._archive, deploy, before, retries=PATIENT)
        except DomainError as error:
            context.step("note", self._note, deploy, error.message)
        return {"state": "DEPLOYED"}

    def _enter_production(self, deploy: _Deploy) -> None:
        # Before the switch: the registry may refuse, and then no request may see the version.
        self._registry.transition(
            deploy.model_version, "PRODUCTION", deploy.reason, f"{deploy.workflow_id}:stage"
        )

    def _switch(self, deploy: _Deploy) -> str:
        """Give the version all traffic; the version that had it before, if another one did."""
        with self._store.write() as unit:
            endpoint = unit.endpoint(deploy.endpoint_id)
            current = unit.table(endpoint.endpoint_id, endpoint.generation)
            if endpoint.deploy_workflow == deploy.workflow_id:
                endpoint = replace(endpoint, deploying="", deploy_workflow="")
                unit.save_endpoint(endpoint)
                if not _serves_all(current, deploy.model_version):
                    change = Change(deploy.actor, deploy.reason, self._clock.now())
                    current = traffic.switched(current, deploy.model_version, deploy.salt, change)
                    endpoint = unit.add_table(endpoint, current)
                    unit.announce(endpoint.name, "deployed", deploy.actor, deploy.reason)
                loading.settle(unit, endpoint)
            before = _champion_before(unit, deploy.endpoint_id, current)
        self._push()
        return "" if before == deploy.model_version else before

    def _move_alias(self, deploy: _Deploy) -> None:
        model = deploy.model_version.partition("/versions/")[0]
        key = f"{deploy.workflow_id}:alias"
        self._registry.set_alias(model, CHAMPION, deploy.model_version, deploy.reason, key)

    def _archive(self, deploy: _Deploy, before: str) -> None:
        reason = f"replaced by {deploy.model_version}"
        self._registry.transition(before, "ARCHIVED", reason, f"{deploy.workflow_id}:archive")

    def _fail(self, deploy: _Deploy, reason: str) -> None:
        with self._store.write() as unit:
            try:
                endpoint = unit.endpoint(deploy.endpoint_id)
            except NotFound:
                return
            if endpoint.deploy_workflow != deploy.workflow_id:
                return
            endpoint = replace(endpoint, deploying="", deploy_workflow="", failure=reason)
            unit.save_endpoint(endpoint)
            loading.settle(unit, endpoint)
            unit.announce(endpoint.name, "deployment_failed", "services/serving", reason)
        self._push()

    def _note(self, deploy: _Deploy, reason: str) -> None:
        with self._store.write() as unit:
            endpoint = unit.endpoint(deploy.endpoint_id)
            unit.save_endpoint(replace(endpoint, failure=reason))

    def _push(self) -> None:
        self._dataplane.changed()
        self._reconcile()


def _serves_all(table: TrafficTable | None, version: str) -> bool:
    return table is not None and table.steady and table.champion_version == version


def _champion_before(unit: Unit, endpoint_id: str, table: TrafficTable | None) -> str:
    good = unit.table(endpoint_id, table.last_good) if table else None
    return good.champion_version if good else ""
