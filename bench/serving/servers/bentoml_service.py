"""BentoML: a service with one API."""

from __future__ import annotations

from typing import Any

import bentoml
from pydantic import BaseModel
from scorer import load, matrix, v2_answer


class Tensor(BaseModel):
    """An input."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Bench:
    """The model."""

    def __init__(self) -> None:
        self._score = load()

    @bentoml.api(route="/v2/models/bench/infer")  # type: ignore[untyped-decorator]
    async def infer(self, inputs: list[Tensor]) -> dict[str, Any]:
        """Answers."""
        rows = matrix(inputs[0].shape, inputs[0].data)
        answer: dict[str, Any] = v2_answer(self._score(rows))
        return answer
