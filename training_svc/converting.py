"""A model file of somebody's made into the form that serves: the part that runs on its own.

Reading the file, converting it and scoring with it happen in a child with limits, for all three
run native code over content that nobody here has made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from training_svc.conversion import source_to_onnx
from training_svc.domain.conversions import ConversionState, said_of
from training_svc.domain.encoding import Input, Matrix, encode
from training_svc.domain.parity import LABEL, ONNX, PREDICTION
from training_svc.domain.pipelines import ConversionSpec
from training_svc.ports import Document
from training_svc.quantization import quantize
from training_svc.scoring import load_model, read_source
from training_svc.steps.shaping import ConversionDiffers, Made, Shaped, Shaping
from training_svc.tables import ArrowTable, from_chunks
from training_svc.trainers import PARITY_ROWS, Fitted, exported

SOURCE, SAMPLE, FILES = "source", "sample", "files"
"""What lies in the child's folder: the model file, the sample, and the files that it makes."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Rows as the model sees them.

    Attributes:
        names: Of the inputs, in order.
        matrix: n x names rows.
        predictions: What the model says of them where it was trained; None when not known.
        labels: n labels, 0 or 1, of both classes; None when not known.
    """

    names: tuple[str, ...]
    matrix: Matrix
    predictions: Floats | None
    labels: Floats | None


def read_sample(content: bytes) -> Sample:
    """Reads the first `PARITY_ROWS` rows of a stored sample.

    Raises:
        FailedPrecondition: `SAMPLE_UNUSABLE`, `INPUT_NOT_NUMERIC`.
    """
    try:
        table = from_chunks([content])
    except (OSError, ValueError) as error:
        raise FailedPrecondition("SAMPLE_UNUSABLE", "it is no Arrow IPC stream") from error
    names = tuple(name for name in table.columns if name not in (PREDICTION, LABEL))
    if not names or table.row_count == 0 or len(set(table.columns)) < len(table.columns):
        raise FailedPrecondition(
            "SAMPLE_UNUSABLE", "it needs rows, and columns with names of their own"
        )
    inputs = [Input(name, "REQUEST", required=False) for name in names]
    matrix = encode({name: table.column(name)[:PARITY_ROWS] for name in names}, inputs)
    return Sample(names, matrix, _numbers(table, PREDICTION), _labels(table))


def _numbers(table: ArrowTable, name: str) -> Floats | None:
    if name not in table.columns:
        return None
    try:
        return table.column(name)[:PARITY_ROWS].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise FailedPrecondition("SAMPLE_UNUSABLE", f"{name} must be numbers") from error


def _labels(table: ArrowTable) -> Floats | None:
    """Labels, where metrics can be made of them."""
    labels = _numbers(table, LABEL)
    if labels is None or set(np.unique(labels)) != {0.0, 1.0}:
        return None
    return labels


def convert(folder: Path, request: Mapping[str, Any]) -> Document:
    """Converts the file in a folder, quantizes it where asked to, and compares all forms.

    Args:
        folder: With `SOURCE` and `SAMPLE`; what is made is put into `FILES`, named by its hash.
        request: `format`, `outputs` and `spec`.

    Returns:
        `state` (`SUCCEEDED` or `REFUSED`), `reason`, `runtime`, `artifacts` (role, file name, name
        and format), `parity_reports` as the registry takes them, and `inputs`.

    Raises:
        FailedPrecondition: `MODEL_UNUSABLE`, `SAMPLE_UNUSABLE`, `INPUT_NOT_NUMERIC`.
    """
    sample = read_sample((folder / SAMPLE).read_bytes())
    kind, outputs = request["format"], request["outputs"]
    if sample.predictions is not None and outputs != 1:
        raise FailedPrecondition("SAMPLE_UNUSABLE", f"{PREDICTION} has one output, not {outputs}")
    scoring = partial(load_model, outputs=outputs)
    source = (folder / SOURCE).read_bytes()
    predictions = scoring(kind, source, len(sample.names))(sample.matrix)
    if sample.predictions is not None:
        predictions = sample.predictions
    fitted = _as_fitted(kind, folder / SOURCE, len(sample.names), predictions)
    labels = sample.labels if outputs == 1 else None
    shaping = Shaping(scoring, quantize, falls_back=False)
    try:
        shaped = shaping.shape(fitted, sample.matrix, labels, ConversionSpec(**request["spec"]))
    except ConversionDiffers as error:
        report = {**asdict(error.parity), "source": _name(source), "source_bytes": len(source)}
        return _answer(ConversionState.REFUSED, error.message, sample, parity_reports=[report])
    (folder / FILES).mkdir()
    return _answer(
        ConversionState.SUCCEEDED,
        said_of(each.parity for each in shaped.made),
        sample,
        runtime=shaped.fitted.runtime,
        artifacts=_artifacts(folder / FILES, shaped),
        parity_reports=[_report(each) for each in shaped.made],
    )


def _as_fitted(kind: str, path: Path, width: int, predictions: Floats) -> Fitted:
    """The model in a file as a trainer would give it."""
    content = path.read_bytes()
    if kind == ONNX:
        return Fitted(kind, content, kind, {}, (), predictions)
    model = read_source(kind, path)
    native = (f"model.{kind}", kind, content)
    return exported(lambda: source_to_onnx(kind, model, width), native, (), predictions)


def _artifacts(folder: Path, shaped: Shaped) -> list[list[str]]:
    fitted = shaped.fitted
    kind = fitted.model_format
    files = [("model", f"model.{kind}", kind, fitted.model)]
    files += [("source_model", name, *file) for name, file in fitted.files.items()]
    for *_, content in files:
        (folder / _name(content).partition("/")[2]).write_bytes(content)
    return [[role, name, _name(content), form] for role, name, form, content in files]


def _report(made: Made) -> Document:
    files = {"source": made.source, "target": made.target}
    return {
        **asdict(made.parity),
        **{name: _name(content) for name, content in files.items() if content},
    }


def _answer(state: ConversionState, reason: str, sample: Sample, **found: Any) -> Document:
    return {"state": state.value, "reason": reason, "inputs": list(sample.names), **found}


def _name(content: bytes) -> str:
    return f"artifacts/{hashlib.sha256(content).hexdigest()}"
