"""What runtimes have in common.

Plugins of the group `modelyard.model_runtimes` have, beside what every plugin has, a method
`load(path, inputs, outputs)` that gives a scorer. Their capabilities say what they load:
`format:onnx` for each format, `runs-code` when loading one runs code that the model brings along,
and the devices `cpu` and `cuda`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Matrix = npt.NDArray[np.float32]
#: float32, rows x inputs, to float32, rows x outputs; called from one thread at a time.
Scorer = Callable[[Matrix], Matrix]

_FLOAT = np.dtype(np.float32)


class ModelUnusableError(Exception):
    """A model file that this runtime can't serve; the text says why."""


class ModelRuntime(Protocol):
    """What a runtime plugin does.

    One whose models can be converted has `read(path)` as well, which gives the object of its
    library that the file holds.
    """

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load a model file.

        Args:
            path: The file; its content was verified.
            inputs: Columns of the input matrix.
            outputs: Columns of the output matrix.

        Raises ModelUnusableError when the file does not hold such a model.
        """
        ...


class RuntimeConfig(BaseModel):
    """Settings of the built-in runtimes."""

    model_config = ConfigDict(extra="forbid")

    threads: int = Field(default=1, ge=1, le=256)
    """Threads that score one batch."""


def warmed(scorer: Scorer, inputs: int, outputs: int) -> Scorer:
    """The scorer, after it has scored blank rows; raises ModelUnusableError when it can't."""
    for rows in (1, 64, 1):
        try:
            result = scorer(np.zeros((rows, inputs), dtype=np.float32))
        except ModelUnusableError:
            raise
        except Exception as error:
            raise ModelUnusableError(f"can't score: {type(error).__name__}") from error
        if result.shape != (rows, outputs):
            raise ModelUnusableError(f"gives {result.shape} for {rows} rows x {outputs} outputs")
    return scorer


def check_width(found: int, inputs: int) -> None:
    """Raises ModelUnusableError when a model takes another number of inputs than its signature."""
    if found != inputs:
        raise ModelUnusableError(f"the model has {found} inputs, its signature {inputs}")


def columns(result: npt.NDArray[np.floating], outputs: int) -> Matrix:
    """An answer as rows x outputs; of two classes' scores for one output, the second.

    Raises ModelUnusableError for any other width.
    """
    if result.ndim != 2:
        result = result.reshape(len(result), -1)
    width = result.shape[1]
    if width == outputs + 1:
        result = result[:, 1:]
    elif width != outputs:
        raise ModelUnusableError(f"the model has {width} outputs, its signature {outputs}")
    return result if result.dtype == _FLOAT else result.astype(_FLOAT)
