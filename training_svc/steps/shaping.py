"""From a trained model to the file that serves: converted, quantized where asked for, compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from training_svc.domain.encoding import Matrix
from training_svc.domain.parity import INT8, ONNX, Parity, Tolerance, compare, failed, with_metrics
from training_svc.domain.pipelines import ConversionSpec
from training_svc.ports import LoadModel
from training_svc.quantization import NothingToQuantizeError
from training_svc.trainers import PARITY_ROWS, Fitted

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Made:
    """A comparison with the contents of both files; empty where there is none that is kept."""

    parity: Parity
    source: bytes = b""
    target: bytes = b""


@dataclass(frozen=True)
class Shaped:
    """A model in the form that serves, and how that was made."""

    fitted: Fitted
    made: tuple[Made, ...]

    @property
    def remark(self) -> str:
        """What should be said of it: refusals."""
        refused = [each.parity for each in self.made if not each.parity.passed]
        return "".join(f" (no {each.method}: {each.reason})" for each in refused)


class ConversionDiffers(FailedPrecondition):
    """A model's file answers otherwise than the model does."""

    def __init__(self, parity: Parity) -> None:
        super().__init__(
            "CONVERSION_DIFFERS",
            f"the model's file does not score as the model did: {parity.reason}",
        )
        self.parity = parity


@dataclass(frozen=True)
class Shaping:
    """Chooses the form of a trained model.

    Attributes:
        load_model: Loads a file by a runtime.
        quantize: From an ONNX file to one with INT8 weights; raises NothingToQuantizeError.
        falls_back: Whether the native form serves when the converted one answers otherwise.
    """

    load_model: LoadModel
    quantize: Callable[[bytes], bytes]
    falls_back: bool = True

    def shape(
        self, fitted: Fitted, matrix: Matrix, labels: Floats | None, spec: ConversionSpec
    ) -> Shaped:
        """The form that scores as its source does: converted, else native; quantized if asked for.

        Args:
            fitted: The trained model.
            matrix: Rows that it learned from; the first `PARITY_ROWS` are the sample.
            labels: Their labels; None when they are not known.
            spec: What is asked for and allowed.

        Raises:
            ConversionDiffers: No form scores as the source.
        """
        rows, labels = matrix[:PARITY_ROWS], None if labels is None else labels[:PARITY_ROWS]
        served, made = self._faithful(
            fitted, rows, Tolerance(spec.tolerance, spec.max_share_beyond)
        )
        if not spec.quantize:
            return Shaped(served, (made,))
        allowed = Tolerance(spec.quantize_tolerance, spec.quantize_max_share_beyond)
        served, further = self._quantized(served, rows, labels, allowed)
        return Shaped(served, (made, further))

    def _faithful(self, fitted: Fitted, rows: Matrix, allowed: Tolerance) -> tuple[Fitted, Made]:
        parity = self._parity(fitted, rows, allowed)
        if fitted.unconverted:
            self._require(parity)
            report = failed(ONNX, f"{fitted.unconverted}; {fitted.runtime} serves it", allowed)
            return fitted, Made(report, fitted.model)
        source = native_form(fitted)
        kept = b"" if source is None else source.model
        parity = replace(parity, source_bytes=len(kept))
        if parity.passed or source is None or not self.falls_back:
            self._require(parity)
            return fitted, Made(parity, kept, fitted.model)
        self._require(self._parity(source, rows, allowed))
        reason = f"{parity.reason}; {source.runtime} serves it"
        return source, Made(replace(parity, reason=reason), kept)

    def _quantized(
        self, fitted: Fitted, rows: Matrix, labels: Floats | None, allowed: Tolerance
    ) -> tuple[Fitted, Made]:
        size = len(fitted.model)
        if fitted.model_format != ONNX:
            reason = f"only ONNX files are quantized, and this one is {fitted.model_format}"
            return fitted, Made(failed(INT8, reason, allowed, size), fitted.model)
        try:
            small = self.quantize(fitted.model)
        except NothingToQuantizeError as error:
            return fitted, Made(failed(INT8, str(error), allowed, size), fitted.model)
        made = replace(
            fitted, model=small, files={**fitted.files, "model.full.onnx": (ONNX, fitted.model)}
        )
        before, after = self._scores(fitted, rows), self._scores(made, rows)
        parity = compare(INT8, before, after, allowed, (size, len(small)))
        if labels is not None:
            parity = with_metrics(parity, labels, before, after)
        if not parity.passed:
            return fitted, Made(parity, fitted.model)
        return made, Made(parity, fitted.model, small)

    def _parity(self, fitted: Fitted, rows: Matrix, allowed: Tolerance) -> Parity:
        scores = self._scores(fitted, rows)
        return compare(ONNX, fitted.predictions, scores, allowed, (0, len(fitted.model)))

    def _scores(self, fitted: Fitted, rows: Matrix) -> Floats:
        return self.load_model(fitted.runtime, fitted.model, rows.shape[1])(rows)

    def _require(self, parity: Parity) -> None:
        if not parity.passed:
            raise ConversionDiffers(parity)


def native_form(fitted: Fitted) -> Fitted | None:
    """The model in its own library's format; None when that was not kept."""
    for name, (kind, content) in fitted.files.items():
        if kind == fitted.native:
            rest = {other: file for other, file in fitted.files.items() if other != name}
            return replace(fitted, runtime=kind, model=content, model_format=kind, files=rest)
    return None
