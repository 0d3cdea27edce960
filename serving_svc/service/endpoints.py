"""Use cases about endpoints and their traffic."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from service_kit.clock import Clock
from service_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from service_kit.ids import uuid7_str
from service_kit.names import parse_name
from service_kit.paging import Page
from serving_svc.domain import (
    Change,
    Endpoint,
    EndpointState,
    ModelVersion,
    TrafficTable,
    Variant,
    traffic,
)
from serving_svc.domain import endpoints as rules
from serving_svc.service import loading
from serving_svc.service.dataplane import DataPlane
from serving_svc.service.ports import (
    AnswerT,
    Engine,
    MessageT,
    Registry,
    RequestKey,
    Store,
    Unit,
)

DEPLOY_WORKFLOW = "serving.deploy"
_ALIAS = "/aliases/"


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as callers see it."""

    endpoint: Endpoint
    table: TrafficTable | None
    state: EndpointState
    reason: str


class ServingService:
    """Endpoints, deployments and traffic.

    Args:
        store: The record.
        registry: Where versions come from.
        dataplane: Who is told of changes.
        engine: Runs the deployments.
        clock: The time.
        reconcile: Wakes what starts and stops replicas.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        dataplane: DataPlane,
        engine: Engine,
        clock: Clock,
        reconcile: Callable[[], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._dataplane = dataplane
        self._engine = engine
        self._clock = clock
        self._reconcile = reconcile

    def create_endpoint(
        self, endpoint: Endpoint, actor: str, key: RequestKey[EndpointView, MessageT]
    ) -> MessageT:
        """Create an endpoint.

        Raises InvalidArgument, AlreadyExists (`ENDPOINT_EXISTS`).
        """
        wanted = rules.checked(replace(endpoint, created=self._clock.now()))

        def build(unit: Unit) -> EndpointView:
            unit.add_endpoint(wanted)
            unit.announce(wanted.name, "created", actor, "")
            return self._view(unit, wanted)

        return self._write(key, build)

    def get_endpoint(self, endpoint_id: str) -> EndpointView:
        """An endpoint; raises NotFound (`ENDPOINT_NOT_FOUND`)."""
        with self._store.read() as unit:
            return self._view(unit, unit.endpoint(endpoint_id))

    def list_endpoints(self, page: Page) -> tuple[list[EndpointView], str]:
        """Endpoints by id, and where the next page begins."""
        with self._store.read() as unit:
            found = unit.endpoints(page.offset_token, page.size + 1)
            views = [self._view(unit, endpoint) for endpoint in found[: page.size]]
        more = len(found) > page.size
        return views, views[-1].endpoint.endpoint_id if more else ""

    def update_endpoint(
        self,
        wanted: Endpoint,
        paths: Collection[str],
        actor: str,
        key: RequestKey[EndpointView, MessageT],
    ) -> MessageT:
        """Change settings of an endpoint.

        Raises InvalidArgument, NotFound (`ENDPOINT_NOT_FOUND`).
        """

        def build(unit: Unit) -> EndpointView:
            endpoint = rules.changed(unit.endpoint(wanted.endpoint_id), wanted, paths)
            unit.save_endpoint(endpoint)
            loading.rebound(unit, endpoint)
            unit.announce(endpoint.name, "updated", actor, "")
            return self._view(unit, endpoint)

        return self._write(key, build)

    def delete_endpoint(
        self, endpoint_id: str, actor: str, key: RequestKey[None, MessageT]
    ) -> MessageT:
        """Take an endpoint down.

        Raises NotFound (`ENDPOINT_NOT_FOUND`), FailedPrecondition (`ROLLOUT_ACTIVE`).
        """

        def build(unit: Unit) -> None:
            endpoint = unit.endpoint(endpoint_id)
            rules.refuse_while_busy(replace(endpoint, deploying=""), _active(unit, endpoint_id))
            unit.delete_endpoint(endpoint_id)
            for each in unit.deployments(endpoint_id):
                unit.save_deployment(replace(each, wanted=False))
            unit.announce(endpoint.name, "deleted", actor, "")

        return self._write(key, build)

    def deploy_version(
        self,
        endpoint_id: str,
        model_version: str,
        reason: str,
        actor: str,
        key: RequestKey[EndpointView, MessageT],
    ) -> MessageT:
        """Begin to load a version that gets all the traffic once its replicas answer.

        Raises NotFound, InvalidArgument (`WRONG_MODEL`, `VERSION_NOT_SERVABLE`),
        FailedPrecondition (`ROLLOUT_ACTIVE`, `DEPLOYMENT_ACTIVE`).
        """
        version = resolve_version(self._registry, model_version)
        begun: list[tuple[str, dict[str, str]]] = []

        def build(unit: Unit) -> EndpointView:
            endpoint = unit.endpoint(endpoint_id)
            check_model(endpoint, version)
            if endpoint.deploying == version.name:
                return self._view(unit, endpoint)
            rules.refuse_while_busy(endpoint, _active(unit, endpoint_id))
            workflow = f"deploy-{uuid7_str()}"
            endpoint = replace(
                endpoint, deploying=version.name, deploy_workflow=workflow, failure=""
            )
            unit.save_endpoint(endpoint)
            loading.want(unit, endpoint, version, self._clock.now())
            unit.announce(endpoint.name, "deploying", actor, reason)
            begun.append((workflow, deploy_input(endpoint_id, version.name, actor, reason)))
            return self._view(unit, endpoint)

        answer = self._write(key, build)
        for workflow, given in begun:
            self._engine.start(DEPLOY_WORKFLOW, workflow, given)
        return answer

    def update_traffic(
        self,
        endpoint_id: str,
        generation: int,
        variants: Sequence[Variant],
        overrides: Mapping[str, str],
        change: tuple[str, str],
        key: RequestKey[EndpointView, MessageT],
    ) -> MessageT:
        """Divide the traffic anew; `change` is who and why.

        Raises Conflict (`STALE_GENERATION`), InvalidArgument, FailedPrecondition
        (`NO_TRAFFIC_TABLE`, `VERSION_NOT_LOADED`), NotFound.
        """

        def build(unit: Unit) -> EndpointView:
            endpoint = unit.endpoint(endpoint_id)
            current = table_in_force(unit, endpoint)
            named = traffic.check_variants(variants, endpoint.model)
            units = traffic.check_overrides(overrides, named)
            traffic.check_generation(current, generation)
            self._require_loaded({each.model_version for each in named if each.weight_bp})
            table = traffic.split(current, named, units, self._by(change))
            return self._put(unit, endpoint, table, "traffic_changed")

        return self._write(key, build)

    def rollback_endpoint(
        self,
        endpoint_id: str,
        change: tuple[str, str],
        key: RequestKey[EndpointView, MessageT],
    ) -> MessageT:
        """Go back to the last good table at once; a rollout under way ends by itself.

        Raises FailedPrecondition (`NO_TRAFFIC_TABLE`, `NO_GOOD_TABLE`, `VERSION_NOT_LOADED`),
        NotFound.
        """

        def build(unit: Unit) -> EndpointView:
            endpoint = unit.endpoint(endpoint_id)
            current = table_in_force(unit, endpoint)
            good = unit.table(endpoint_id, traffic.last_good_of(current))
            if good is None:
                raise FailedPrecondition("NO_GOOD_TABLE", "there is no table to go back to")
            # When the present champion answers no more either, going back can't make it worse.
            if current.champion_version in self._dataplane.live():
                self._require_loaded({good.champion_version})
            table = traffic.restored(current, good, self._by(change))
            return self._put(unit, endpoint, table, "rolled_back")

        return self._write(key, build)

    def list_tables(self, endpoint_id: str, page: Page) -> tuple[list[TrafficTable], str]:
        """Tables that an endpoint had, newest first, and where the next page begins."""
        before = generation_token(page)
        with self._store.read() as unit:
            unit.endpoint(endpoint_id)
            found = unit.tables(endpoint_id, before, page.size + 1)
        tables = list(found[: page.size])
        return tables, str(tables[-1].generation) if len(found) > page.size else ""

    def resume(self) -> None:
        """Start the workflows of deployments that were recorded and perhaps not started."""
        with self._store.read() as unit:
            endpoints = [each for each in unit.endpoints() if each.deploying]
        for each in endpoints:
            given = deploy_input(each.endpoint_id, each.deploying, "services/serving", "resumed")
            self._engine.start(DEPLOY_WORKFLOW, each.deploy_workflow, given)

    def _write(
        self, key: RequestKey[AnswerT, MessageT], build: Callable[[Unit], AnswerT]
    ) -> MessageT:
        with self._store.write() as unit:
            answer = unit.once(key, lambda: build(unit))
        self._dataplane.changed()
        self._reconcile()
        return answer

    def _put(
        self, unit: Unit, endpoint: Endpoint, table: TrafficTable, action: str
    ) -> EndpointView:
        endpoint = unit.add_table(endpoint, table)
        loading.settle(unit, endpoint)
        unit.announce(endpoint.name, action, table.actor, table.reason)
        return self._view(unit, endpoint)

    def _view(self, unit: Unit, endpoint: Endpoint) -> EndpointView:
        table = unit.table(endpoint.endpoint_id, endpoint.generation)
        champion = table.champion_version if table else ""
        state, reason = rules.state_of(endpoint, champion, self._dataplane.live())
        return EndpointView(endpoint, table, state, reason)

    def _by(self, change: tuple[str, str]) -> Change:
        actor, reason = change
        return Change(actor, reason, self._clock.now())

    def _require_loaded(self, versions: set[str]) -> None:
        if not versions <= self._dataplane.live().keys():
            raise FailedPrecondition(
                "VERSION_NOT_LOADED", "a version has no replica that answers", field="variants"
            )


def deploy_input(endpoint_id: str, version: str, actor: str, reason: str) -> dict[str, str]:
    """Input of a deployment's workflow."""
    return {
        "endpoint_id": endpoint_id,
        "model_version": version,
        "actor": actor,
        "reason": reason,
        "salt": secrets.token_hex(8),
    }


def resolve_version(registry: Registry, name: str) -> ModelVersion:
    """A version by its name or by an alias.

    Raises InvalidArgument (`INVALID_NAME`, `VERSION_NOT_SERVABLE`), NotFound.
    """
    pattern = "models/{model}/aliases/{alias}" if _ALIAS in name else traffic.VERSION_PATTERN
    parse_name(pattern, name, field="model_version")
    try:
        version = registry.version(name)
    except NotFound as error:
        raise NotFound(error.reason, error.message, field="model_version") from error
    if not version.runtime or not version.artifact or not version.inputs or not version.outputs:
        raise InvalidArgument(
            "VERSION_NOT_SERVABLE",
            "the version needs a runtime, a model artifact and a signature to be served",
            field="model_version",
        )
    return version


def check_model(endpoint: Endpoint, version: ModelVersion) -> None:
    """Raises InvalidArgument (`WRONG_MODEL`) for a version of another model."""
    if not version.name.startswith(f"{endpoint.model}/versions/"):
        raise InvalidArgument(
            "WRONG_MODEL", "is not of the endpoint's model", field="model_version"
        )


def table_in_force(unit: Unit, endpoint: Endpoint) -> TrafficTable:
    """The table in force; raises FailedPrecondition (`NO_TRAFFIC_TABLE`) before the first."""
    table = unit.table(endpoint.endpoint_id, endpoint.generation)
    if table is None:
        raise FailedPrecondition("NO_TRAFFIC_TABLE", "deploy a version to the endpoint first")
    return table


def generation_token(page: Page) -> int:
    """The generation below which a page begins."""
    if not page.offset_token:
        return 2**62
    if not page.offset_token.isdecimal():
        raise InvalidArgument("INVALID_PAGE_TOKEN", "is not a page token", field="page_token")
    return int(page.offset_token)


def _active(unit: Unit, endpoint_id: str) -> str:
    active = unit.active_rollouts(endpoint_id)
    return active[0].name if active else ""
