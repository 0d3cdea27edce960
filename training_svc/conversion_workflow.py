"""A conversion as a durable workflow: it goes on after any restart."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

from service_kit.clock import Clock
from service_kit.errors import DomainError, FailedPrecondition
from service_kit.sandbox import Limits, SandboxError, run_apart
from training_svc.converting import FILES, SAMPLE, SOURCE
from training_svc.domain.conversions import Conversion, ConversionState, ended
from training_svc.ports import Check, Document, Registry, Store
from training_svc.workflow import RETRIES, Context

MOST_SAMPLE_BYTES = 64 << 20

logger = logging.getLogger(__name__)

Convert: TypeAlias = Callable[[Conversion, Check], Document]
"""Carries out a conversion; a document as `converting.convert` gives it."""


@dataclass(frozen=True)
class Converter:
    """Fetches the files, has them converted in a process of its own, stores what was made.

    Attributes:
        limits: What the child may use.
    """

    registry: Registry
    limits: Limits

    def __call__(self, conversion: Conversion, check: Check) -> Document:
        """Converts; doing it again gives the same artifacts.

        Raises:
            FailedPrecondition: `CONVERSION_CRASHED` when the child gave no answer, and what
                `converting.convert` raises.
        """
        request = {
            "format": conversion.format,
            "outputs": conversion.outputs,
            "spec": asdict(conversion.spec),
        }
        with tempfile.TemporaryDirectory(prefix="conversion") as name:
            folder = Path(name)
            (folder / SOURCE).write_bytes(self.registry.read(conversion.source))
            (folder / SAMPLE).write_bytes(
                self.registry.read(conversion.sample, most_bytes=MOST_SAMPLE_BYTES)
            )
            try:
                made = run_apart(
                    "training_svc.converting:convert", folder, request, self.limits, check
                )
            except SandboxError as error:
                raise FailedPrecondition(
                    "CONVERSION_CRASHED", f"the process that converts gave no answer: {error}"
                ) from error
            for file in sorted((folder / FILES).glob("*")):
                if conversion.source != f"artifacts/{file.name}":
                    self.registry.write(file.read_bytes())
        return made


@dataclass(frozen=True)
class ConversionWorkflow:
    """Carries out a conversion and keeps its record."""

    store: Store
    convert: Convert
    clock: Clock

    def __call__(self, context: Context, given: Document) -> Document:
        """Runs the workflow; every failure ends up in the conversion's record."""
        conversion_id = given["conversion"]
        try:
            made = context.step("convert", self._convert, context, conversion_id, retries=RETRIES)
        except DomainError as error:
            reason = f"{error.reason}: {error.message}"
            made = {"state": ConversionState.FAILED.value, "reason": reason}
        except Exception as error:
            logger.exception("a conversion went wrong between its steps")
            reason = f"INTERNAL: {type(error).__name__}"
            made = {"state": ConversionState.FAILED.value, "reason": reason}
        context.step("end", self._finish, conversion_id, made)
        return {"state": made["state"]}

    def _convert(self, context: Context, conversion_id: str) -> Document:
        with self.store.transaction() as records:
            conversion = records.conversion(conversion_id, to_change=True)
            if conversion is None or conversion.state.ended:
                raise FailedPrecondition("CONVERSION_ENDED", "the conversion was stopped")
            records.save_conversion(replace(conversion, state=ConversionState.RUNNING))
        return self.convert(conversion, context.check)

    def _finish(self, conversion_id: str, made: Document) -> None:
        with self.store.transaction() as records:
            conversion = records.conversion(conversion_id, to_change=True)
            if conversion is None or conversion.state.ended:
                return
            state = ConversionState(made["state"])
            done = ended(conversion, state, made["reason"], self.clock.now())
            records.save_conversion(replace(done, **_found(conversion, made)))


def _found(conversion: Conversion, made: Document) -> Document:
    """What a conversion's record shows of what was made."""
    if "inputs" not in made:
        return {}
    artifacts = [tuple(each) for each in made.get("artifacts", [])]
    if artifacts:
        artifacts.append(("sample", "sample.arrow", conversion.sample, "arrow"))
    return {
        "inputs": tuple(made["inputs"]),
        "runtime": made.get("runtime", ""),
        "artifacts": tuple(artifacts),
        "parity_reports": tuple(made["parity_reports"]),
    }
