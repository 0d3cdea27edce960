"""What the use cases need of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from serving_svc.domain import (
    AppStatus,
    Deployment,
    Endpoint,
    Look,
    ModelVersion,
    Rollout,
    RolloutEvent,
    TrafficTable,
)

AnswerT = TypeVar("AnswerT")
MessageT = TypeVar("MessageT")
StepT = TypeVar("StepT")


@dataclass(frozen=True, slots=True)
class RequestKey(Generic[AnswerT, MessageT]):
    """Identity of a mutating request, and how its answer is kept.

    Attributes:
        method: Full name of the method.
        request_id: Idempotency key; empty when the caller asks for no such care.
        fingerprint: Bytes of the request.
        encode: Makes the message that is answered and kept.
        parse: Reads a kept message.
    """

    method: str
    request_id: str
    fingerprint: bytes
    encode: Callable[[AnswerT], MessageT]
    parse: Callable[[bytes], MessageT]


class Unit(Protocol):
    """One transaction on the record of serving."""

    def once(
        self, key: RequestKey[AnswerT, MessageT], build: Callable[[], AnswerT]
    ) -> MessageT: ...

    def announce(self, resource: str, action: str, actor: str, reason: str) -> None: ...

    def endpoint(self, endpoint_id: str) -> Endpoint: ...

    def endpoints(self, after: str = "", limit: int | None = None) -> Sequence[Endpoint]: ...

    def add_endpoint(self, endpoint: Endpoint) -> None: ...

    def save_endpoint(self, endpoint: Endpoint) -> None: ...

    def delete_endpoint(self, endpoint_id: str) -> None: ...

    def table(self, endpoint_id: str, generation: int) -> TrafficTable | None: ...

    def tables(self, endpoint_id: str, before: int, limit: int) -> Sequence[TrafficTable]: ...

    def add_table(self, endpoint: Endpoint, table: TrafficTable) -> Endpoint: ...

    def deployments(self, endpoint_id: str = "") -> Sequence[Deployment]: ...

    def save_deployment(self, deployment: Deployment) -> None: ...

    def delete_deployment(self, deployment: Deployment) -> None: ...

    def rollout(self, endpoint_id: str, rollout_id: str) -> Rollout: ...

    def rollouts(self, endpoint_id: str, before: str, limit: int) -> Sequence[Rollout]: ...

    def active_rollouts(self, endpoint_id: str = "") -> Sequence[Rollout]: ...

    def add_rollout(self, rollout: Rollout) -> None: ...

    def save_rollout(self, rollout: Rollout, event: RolloutEvent | None = None) -> None: ...


class Store(Protocol):
    """Opens transactions."""

    def write(self) -> AbstractContextManager[Unit]: ...

    def read(self) -> AbstractContextManager[Unit]: ...


class Registry(Protocol):
    """The record of models."""

    def version(self, name: str) -> ModelVersion:
        """A version by its name or an alias."""
        ...

    def set_alias(
        self, model: str, alias: str, version: str, reason: str, request_id: str
    ) -> None: ...

    def transition(self, version: str, stage: str, reason: str, request_id: str) -> None: ...


class Experiments(Protocol):
    """The judge."""

    def create(self, rollout: Rollout, *, paired: bool, request_id: str) -> str:
        """Create the experiment of a rollout; gives `experiments/{experiment}`."""
        ...

    def analyze(self, experiment: str, *, count_control: bool) -> Look:
        """Look at the data; `count_control` counts the champion's samples alone."""
        ...

    def conclude(self, experiment: str, conclusion: str, request_id: str) -> None: ...


class WorkflowContext(Protocol):
    """What a durable workflow may do."""

    @property
    def workflow_id(self) -> str: ...

    @property
    def interrupted(self) -> bool: ...

    def step(
        self,
        name: str,
        function: Callable[..., StepT],
        *args: Any,
        retries: int = 3,
        backoff: float = 1.0,
    ) -> StepT: ...


class Engine(Protocol):
    """Runs durable workflows."""

    def start(self, name: str, workflow_id: str, given: dict[str, Any], /) -> None: ...


class Control(Protocol):
    """Starts and stops replicas."""

    def apply(self, deployment: Deployment) -> None: ...

    def scale(self, app: str, replicas: int) -> None: ...

    def remove(self, app: str) -> None: ...

    def status(self) -> Mapping[str, AppStatus]: ...
