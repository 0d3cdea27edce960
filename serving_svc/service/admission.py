"""Versions that can be served here: refused when they are asked for, not at the first request."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from serving_svc.domain import ModelVersion, RuntimeFacts, check_code, check_format
from serving_svc.service.ports import Registry


class Runtimes(Protocol):
    """The runtimes of this environment."""

    def facts(self, runtime: str) -> RuntimeFacts: ...

    def all(self) -> list[RuntimeFacts]: ...


class AdmittingRegistry:
    """A registry whose versions all have a runtime that loads them.

    Args:
        registry: The record of models.
        runtimes: What can be loaded.
        code_models: Models, `models/{model}`, whose own code may run.
    """

    def __init__(
        self, registry: Registry, runtimes: Runtimes, code_models: Collection[str]
    ) -> None:
        self._registry = registry
        self._runtimes = runtimes
        self._code_models = frozenset(code_models)

    def version(self, name: str) -> ModelVersion:
        """A version by its name or an alias.

        Raises what the registry raises, and FailedPrecondition (`RUNTIME_NOT_FOUND`,
        `RUNTIME_BROKEN`, `FORMAT_UNKNOWN`, `FORMAT_MISMATCH`, `MODEL_CODE_NOT_ALLOWED`).
        """
        version = self._registry.version(name)
        # A version without a runtime is refused for that by who asked.
        if version.runtime:
            chosen = self._runtimes.facts(version.runtime)
            check_format(version.format, chosen, self._runtimes.all())
            check_code(version.name, chosen, self._code_models)
        return version

    def set_alias(self, model: str, alias: str, version: str, reason: str, request_id: str) -> None:
        """Point an alias of a model at a version."""
        self._registry.set_alias(model, alias, version, reason, request_id)

    def transition(self, version: str, stage: str, reason: str, request_id: str) -> None:
        """Move a version to a stage."""
        self._registry.transition(version, stage, reason, request_id)
