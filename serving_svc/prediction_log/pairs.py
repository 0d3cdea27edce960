"""Rows of the prediction log in pairs: what was answered beside what a shadow scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving_svc.domain.predictions import STANDS_IN, LogFile
from serving_svc.domain.shadows import Numbers, Pairs, Side
from serving_svc.prediction_log import id_column
from serving_svc.prediction_log.columns import (
    FAILURE,
    ID,
    MODEL_LATENCY,
    PRIMARY,
    SHADOW,
    as_kept,
)
from serving_svc.prediction_log.files import groups_within, path_of
from serving_svc.prediction_log.id_column import bytes_of

_TEXTS = ("role", "variant", "model_version", "fallback", FAILURE)
_SCHEMA = pa.schema(
    [
        (ID, id_column.TYPE),
        *((name, pa.string()) for name in _TEXTS),
        *(("score", pa.float64()), ("latency_us", pa.uint32()), (MODEL_LATENCY, pa.uint32())),
    ]
)
_STANDS_IN = pa.array(sorted(STANDS_IN))
_SIDES = ("variant", "model_version")


class PairReader:
    """Reads pairs from the files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pairs(self, files: Sequence[LogFile], first: str, before: str) -> list[Pairs]:
        """The pairs of each shadow and who answered.

        Args:
            first: Ids of rows are not less than this.
            before: But less than this.

        Raises FileNotFoundError when a file is gone.
        """
        tables = [self._read(file, first, before) for file in files]
        table = pa.concat_tables([_SCHEMA.empty_table(), *tables])
        role = table["role"]
        stands_in = pc.is_in(table["fallback"], value_set=_STANDS_IN)
        scored = pc.and_(pc.equal(role, PRIMARY), pc.is_finite(table["score"]))
        answers = table.filter(pc.and_not(scored, stands_in))
        return _paired(answers, table.filter(pc.equal(role, SHADOW)))

    def _read(self, file: LogFile, first: str, before: str) -> pa.Table:
        least, end = bytes_of(first), bytes_of(before)
        with pq.ParquetFile(path_of(self._folder, file)) as reader:
            there = [name for name in _SCHEMA.names if name in reader.schema_arrow.names]
            groups = groups_within(reader, least, end)
            table = as_kept(reader.read_row_groups(groups, columns=there))
        for name in _SCHEMA.names:
            if name not in there:
                table = table.append_column(name, pa.nulls(len(table), _SCHEMA.field(name).type))
        ids = table[ID]
        inside = pc.and_(
            pc.greater_equal(ids, pa.scalar(least, id_column.TYPE)),
            pc.less(ids, pa.scalar(end, id_column.TYPE)),
        )
        return table.select(_SCHEMA.names).cast(_SCHEMA).filter(inside)


def _paired(answers: pa.Table, shadows: pa.Table) -> list[Pairs]:
    """Shadows beside the answers of the same ids; those without one are passed over."""
    places = pc.index_in(shadows[ID], value_set=answers[ID])
    known = pc.is_valid(places)
    shadows, places = shadows.filter(known), places.filter(known)
    answers = answers.take(places)
    sides = pa.table(
        {
            **{name: shadows[name] for name in _SIDES},
            **{f"answered_{name}": answers[name] for name in _SIDES},
        }
    )
    found = []
    for each in sides.group_by(sides.column_names).aggregate([]).to_pylist():
        chosen = None
        for name, value in each.items():
            same = pc.equal(sides[name], value)
            chosen = same if chosen is None else pc.and_(chosen, same)
        shadow = Side(each["variant"], each["model_version"])
        answered = Side(each["answered_variant"], each["answered_model_version"])
        found.append(_pairs(shadow, answered, answers.filter(chosen), shadows.filter(chosen)))
    return found


def _pairs(shadow: Side, answered: Side, answers: pa.Table, shadows: pa.Table) -> Pairs:
    scored = pc.is_finite(shadows["score"]).fill_null(False)
    reasons = shadows[FAILURE].drop_null().to_pylist()
    answers, shadows = answers.filter(scored), shadows.filter(scored)
    return Pairs(
        shadow,
        answered,
        answers=_numbers(answers["score"]),
        scores=_numbers(shadows["score"]),
        answer_us=_numbers(answers[MODEL_LATENCY]),
        score_us=_numbers(shadows["latency_us"]),
        failures=Counter(filter(None, reasons)),
    )


def _numbers(column: pa.ChunkedArray) -> Numbers:
    found: Numbers = column.cast(pa.float64()).to_numpy().astype(np.float64)
    return found
