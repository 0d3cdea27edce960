"""Which runtimes there are, what they load, and how one is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service_kit import plugins
from service_kit.errors import FailedPrecondition, NotFound
from serving_svc.domain import RuntimeFacts
from serving_svc.runtimes.base import ModelRuntime

GROUP = "modelyard.model_runtimes"
FORMAT = "format:"
RUNS_CODE = "runs-code"


class RuntimeCatalog:
    """The runtimes of this environment."""

    def facts(self, runtime: str) -> RuntimeFacts:
        """What a runtime loads.

        Raises FailedPrecondition (`RUNTIME_NOT_FOUND`, `RUNTIME_BROKEN`).
        """
        try:
            info = plugins.inspect(GROUP, runtime)
        except NotFound as error:
            raise FailedPrecondition(
                "RUNTIME_NOT_FOUND", f"there is no runtime {runtime!r} here", field="model_version"
            ) from error
        if info.state == "broken":
            raise FailedPrecondition(
                "RUNTIME_BROKEN",
                f"the runtime {runtime} can't be used: {info.reason}",
                field="model_version",
            )
        formats = (each for each in info.capabilities if each.startswith(FORMAT))
        return RuntimeFacts(
            name=runtime,
            formats=frozenset(each.removeprefix(FORMAT) for each in formats),
            runs_code=RUNS_CODE in info.capabilities,
        )

    def all(self) -> list[RuntimeFacts]:
        """Every runtime that can be used."""
        names = [info.name for info in plugins.discover(GROUP)]
        return [
            self.facts(name) for name in names if plugins.inspect(GROUP, name).state != "broken"
        ]


def make_runtime(name: str, config: Mapping[str, Any] | None = None) -> ModelRuntime:
    """A runtime by its name.

    Raises NotFound (`PLUGIN_NOT_FOUND`), FailedPrecondition (`PLUGIN_BROKEN`) or InvalidArgument
    (`PLUGIN_CONFIG_INVALID`).
    """
    runtime: ModelRuntime = plugins.configure(plugins.load(GROUP, name), config or {})
    return runtime
