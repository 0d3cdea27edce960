"""A model file made a registered version in one go: stored, converted, compared, registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.errors import ConversionRefused, ModelyardError, ProblemError

if TYPE_CHECKING:
    from client.sdk import Client

Json = dict[str, Any]

FORMATS: Mapping[str, str] = {
    ".json": "xgboost",
    ".lightgbm": "lightgbm",
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".safetensors": "safetensors",
    ".skops": "skops",
    ".txt": "lightgbm",
    ".ubj": "xgboost",
    ".xgboost": "xgboost",
}
"""Format of a model file by its ending."""
ENDED = ("STATE_SUCCEEDED", "STATE_REFUSED", "STATE_FAILED", "STATE_CANCELLED")
BESIDE = frozenset({"modelyard.prediction", "modelyard.label"})
"""Columns of a sample that are no inputs."""
EXISTS = "MODEL_EXISTS"


@dataclass(frozen=True)
class Registration:
    """How a model file becomes a version.

    Attributes:
        format: Format of the file; by its ending when empty.
        convert: Whether to convert it to ONNX; without, it is registered as it is, with no report.
        quantize: Whether to quantize the ONNX file to INT8, where its answers allow it.
        tolerance: Absolute difference that the conversion may make to a row's score; 0.0001 when
            absent.
        spec: Further fields of the contract's `ConversionSpec`, for example `max_share_beyond`.
        outputs: Names of the model's outputs.
        owner: Owner of the model, should it be created.
        version: Further fields of the version: `description`, `tags`, `metrics`, `lineage`, or a
            `signature` whose inputs have the sample's columns in their order.
        timeout: Longest time for the conversion, in seconds.
    """

    format: str = ""
    convert: bool = True
    quantize: bool = False
    tolerance: float | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ("score",)
    owner: str = ""
    version: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 600.0


def register(client: Client, model: str, file: Path, sample: Any, wanted: Registration) -> Json:
    """Registers a model file; see `Client.register_model`."""
    from client.tables import arrow_bytes, as_arrow

    kind = wanted.format or format_of(file)
    table = as_arrow(sample)
    signature = wanted.version.get("signature") or signature_of(table, wanted.outputs)
    check_inputs(signature, table)
    source = client.write_artifact(file.read_bytes())
    rows = client.write_artifact(arrow_bytes(table))
    if wanted.convert:
        made = converted(client, source, kind, rows, wanted)
        files = {name: made[name] for name in ("runtime", "artifacts", "parity_reports")}
    else:
        artifacts = [
            {"role": "model", "filename": file.name, "artifact": source, "format": kind},
            {"role": "sample", "filename": "sample.arrow", "artifact": rows, "format": "arrow"},
        ]
        files = {"runtime": kind, "artifacts": artifacts}
    try:
        client.create("models", model, {"owner": wanted.owner})
    except ProblemError as error:
        if error.reason != EXISTS:
            raise
    version = {**wanted.version, "signature": signature, **files}
    return client.post(f"models/{model}/versions", version)


def converted(client: Client, source: str, kind: str, sample: str, wanted: Registration) -> Json:
    """A conversion that has come to a file that may serve; raises ConversionRefused."""
    spec = {**wanted.spec, "quantize": wanted.quantize}
    if wanted.tolerance is not None:
        spec["tolerance"] = wanted.tolerance
    asked = client.post(
        "conversions",
        {
            "source": source,
            "format": kind,
            "sample": sample,
            "spec": spec,
            "output_count": len(wanted.outputs),
        },
    )
    made = client.wait(asked["name"], until=ENDED, timeout=wanted.timeout)
    if made["state"] != "STATE_SUCCEEDED":
        raise ConversionRefused(made)
    return made


def format_of(file: Path) -> str:
    """Format of a model file by its ending.

    Raises:
        ModelyardError: It tells none.
    """
    try:
        return FORMATS[file.suffix.lower()]
    except KeyError:
        known = ", ".join(sorted(set(FORMATS.values())))
        raise ModelyardError(
            f"the ending of {file.name} tells no format: name it ({known})"
        ) from None


def signature_of(table: Any, outputs: Sequence[str]) -> Json:
    """Numbers that the caller gives, one a column of the sample; required unless one is missing."""
    import pyarrow.compute as pc

    return {
        "inputs": [
            {
                "name": name,
                "kind": "KIND_NUMERIC",
                "source": "SOURCE_REQUEST",
                "required": not pc.any(pc.is_null(table[name], nan_is_null=True)).as_py(),
            }
            for name in table.column_names
            if name not in BESIDE
        ],
        "outputs": list(outputs),
    }


def check_inputs(signature: Json, table: Any) -> None:
    """Refuses a signature that is not that of the sample.

    Raises:
        ModelyardError: They differ in names or order.
    """
    named = [each["name"] for each in signature.get("inputs", [])]
    columns = [name for name in table.column_names if name not in BESIDE]
    if named != columns:
        raise ModelyardError(
            f"the sample has the columns {', '.join(columns)}, and the signature the inputs "
            f"{', '.join(named)}: both must be the model's, in its order"
        )
