"""Answers of the data plane as the protocol shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from gateway.dataplane.ask import Answer, BlockAnswer, Scored
from gateway.dataplane.routing import Route
from service_kit.errors import InvalidArgument

#: Datatype of every output.
DATATYPE = "FP32"


@dataclass(slots=True)
class Output:
    """A named tensor of an answer."""

    name: str
    shape: list[int]
    data: list[float] | npt.NDArray[np.float64]


def output_tensors(answer: Answer) -> list[Output]:
    """The outputs of an answer, one tensor an output, of shape [n].

    Rows that different versions answered are joined by the names of the outputs; an output that
    not all of these versions have is left out.
    """
    first = answer.scored[0]
    shape = [len(answer.ids)]
    if len(answer.scored) == 1:
        columns = zip(first.output_names, zip(*first.outputs, strict=True), strict=False)
        return [Output(name, shape, list(values)) for name, values in columns]
    return [
        Output(name, shape, answer.by_row(partial(_column, name)))
        for name in first.output_names
        if all(name in group.output_names for group in answer.scored)
    ]


def parameters(answer: Answer) -> dict[str, str]:
    """What the answer says of itself: a value, or one a row with commas between them."""
    told = told_of(
        *(answer.route.endpoint, answer.route.generation, ",".join(answer.ids)),
        *(_told(answer, each) for each in (_variant, _version, _fallback)),
    )
    if answer.route.cache_rows:
        told["cached"] = _cached(answer)
    return told


def block_outputs(answer: BlockAnswer) -> list[Output]:
    """The outputs of an answer to a matrix of rows, one tensor an output, of shape [n]."""
    columns = np.ascontiguousarray(answer.outputs.T)
    shape = [answer.count]
    return [
        Output(name, shape, values)
        for name, values in zip(answer.variant.plan.outputs, columns, strict=True)
    ]


def block_parameters(answer: BlockAnswer) -> dict[str, str]:
    """What an answer to a matrix of rows says of itself."""
    return told_of(
        *(answer.route.endpoint, answer.route.generation, answer.ids.listed()),
        *(answer.variant.name, answer.variant.version),
    )


def told_of(
    endpoint: str, generation: int, ids: str, variant: str, version: str, fallback: str = ""
) -> dict[str, str]:
    """What every answer says of itself."""
    return {
        "endpoint": endpoint,
        "table_generation": str(generation),
        "prediction_ids": ids,
        "variant": variant,
        "model_version": version,
        "fallback": fallback,
    }


def served_version(answer: Answer) -> str:
    """The version that answered; with commas when there were several."""
    return _told(answer, _version)


def requested(found: list[Output], names: Sequence[str]) -> list[Output]:
    """The outputs that were asked for, in that order; all when none is named.

    Raises:
        InvalidArgument: `UNKNOWN_OUTPUT`.
    """
    if not names:
        return found
    known = {each.name: each for each in found}
    for index, name in enumerate(names):
        if name not in known:
            raise InvalidArgument(
                "UNKNOWN_OUTPUT", "there is no such output", field=f"outputs[{index}].name"
            )
    return [known[name] for name in names]


def input_metadata(route: Route) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of what the champion wants."""
    plan = route.champion.plan
    fields = {field.name: "FP64" if field.codes is None else "BYTES" for field in plan.given}
    keys = {key: "BYTES" for key in plan.entity_keys if key not in fields}
    return [(name, kind, [-1]) for name, kind in (keys | fields).items()]


def output_metadata(route: Route) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of what the champion answers."""
    return [(name, "FP32", [-1]) for name in route.champion.plan.outputs]


def _column(name: str, group: Scored) -> list[float]:
    at = group.output_names.index(name)
    return [outputs[at] for outputs in group.outputs]


def _variant(group: Scored) -> str:
    return group.served.name if group.served else ""


def _version(group: Scored) -> str:
    return group.served.version if group.served else ""


def _fallback(group: Scored) -> str:
    return group.fallback


def _cached(answer: Answer) -> str:
    flags = answer.by_row(lambda group: group.cached or [False] * len(group.rows))
    texts = ["true" if each else "false" for each in flags]
    return texts[0] if texts.count(texts[0]) == len(texts) else ",".join(texts)


def _told(answer: Answer, of_group: Callable[[Scored], str]) -> str:
    """A text that all groups share, or one a row with commas between them."""
    if len(answer.scored) == 1:
        return of_group(answer.scored[0])
    texts = [of_group(group) for group in answer.scored]
    if texts.count(texts[0]) == len(texts):
        return texts[0]
    return ",".join(answer.by_row(lambda group: [of_group(group)] * len(group.rows)))
