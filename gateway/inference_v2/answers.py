"""Answers of the data plane as the protocol shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.dataplane.ask import Answer, Scored
from gateway.dataplane.routing import Route
from service_kit.errors import InvalidArgument

#: Datatype of every output.
DATATYPE = "FP32"


@dataclass(slots=True)
class Output:
    """A named tensor of an answer."""

    name: str
    shape: list[int]
    data: list[float]


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
    rows = [
        dict(zip(group.output_names, group.outputs[at], strict=False))
        for group, at in answer.places()
    ]
    return [
        Output(name, shape, [row[name] for row in rows])
        for name in first.output_names
        if all(name in row for row in rows)
    ]


def parameters(answer: Answer) -> dict[str, str]:
    """What the answer says of itself: a value, or one a row with commas between them."""
    groups = _served(answer)
    return {
        "endpoint": answer.route.endpoint,
        "table_generation": str(answer.route.generation),
        "prediction_ids": ",".join(answer.ids),
        "variant": _joined([each.served.name if each.served else "" for each in groups]),
        "model_version": served_version(answer),
        "fallback": _joined([each.fallback for each in groups]),
    }


def served_version(answer: Answer) -> str:
    """The version that answered; with commas when there were several."""
    return _joined([_version(each) for each in _served(answer)])


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


def _served(answer: Answer) -> list[Scored]:
    # The group of each row; one is enough when there is but one.
    if len(answer.scored) == 1:
        return answer.scored
    return [group for group, _ in answer.places()]


def _version(group: Scored) -> str:
    return group.served.version if group.served else ""


def _joined(values: list[str]) -> str:
    return values[0] if values.count(values[0]) == len(values) else ",".join(values)
