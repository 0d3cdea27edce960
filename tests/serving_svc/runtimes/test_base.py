"""Answers of libraries as rows x outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from serving_svc.runtimes import ModelUnusableError
from serving_svc.runtimes.base import columns

TABLE = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize(
    ("answer", "outputs", "expected"),
    [
        (TABLE, 2, TABLE),
        (TABLE, 1, TABLE[:, 1:]),
        (TABLE.astype(np.float64), 1, TABLE[:, 1:]),
        (TABLE[:, 0], 1, TABLE[:, :1]),
        (TABLE[:, 0].astype(np.float64), 1, TABLE[:, :1]),
        (TABLE.reshape(3, 2, 1), 2, TABLE),
    ],
)
def test_an_answer_has_rows_and_outputs(
    answer: npt.NDArray[np.floating], outputs: int, expected: npt.NDArray[np.float32]
) -> None:
    table = columns(answer, outputs)
    assert table.dtype == np.float32
    assert table.shape == expected.shape
    assert table.tobytes() == expected.tobytes()


@pytest.mark.parametrize("outputs", [3, 4])
def test_another_width_is_refused(outputs: int) -> None:
    with pytest.raises(ModelUnusableError, match="2"):
        columns(TABLE, outputs)
