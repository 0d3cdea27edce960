"""Which runtime may load a version: by its declared format, and by what the operator allows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from service_kit.errors import FailedPrecondition

FIELD = "model_version"
#: Setting that names the models whose own code may run.
ALLOWING = "MODELYARD_CODE_MODELS"


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What a runtime plugin loads.

    Attributes:
        name: Name of the plugin.
        formats: Formats of model files.
        runs_code: Whether loading a model runs code that the model brings along (pickle).
    """

    name: str
    formats: frozenset[str]
    runs_code: bool = False


def check_format(format_: str, chosen: RuntimeFacts, known: Iterable[RuntimeFacts]) -> None:
    """Refuses a version whose runtime does not load its format.

    Raises FailedPrecondition (`FORMAT_UNKNOWN`, `FORMAT_MISMATCH`).
    """
    if format_ in chosen.formats:
        return
    fitting = sorted(each.name for each in known if format_ in each.formats)
    if not fitting:
        raise FailedPrecondition(
            "FORMAT_UNKNOWN", f"no runtime here loads the format {format_!r}", field=FIELD
        )
    raise FailedPrecondition(
        "FORMAT_MISMATCH",
        f"the runtime {chosen.name} does not load the format {format_!r}; "
        f"register the version with {' or '.join(fitting)}",
        field=FIELD,
    )


def check_code(version: str, chosen: RuntimeFacts, allowed: Collection[str]) -> None:
    """Refuses a version that brings code along, unless its model is allowed by name.

    Raises FailedPrecondition (`MODEL_CODE_NOT_ALLOWED`).
    """
    model = version.partition("/versions/")[0]
    if chosen.runs_code and model not in allowed:
        raise FailedPrecondition(
            "MODEL_CODE_NOT_ALLOWED",
            f"the runtime {chosen.name} runs code that the model brings along (pickle); "
            f'to allow it for this model, set {ALLOWING}=["{model}"] for serving',
            field=FIELD,
        )
