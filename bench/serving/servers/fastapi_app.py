"""FastAPI with the model inline: typed bodies, one uvicorn worker."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from scorer import load, matrix, v2_answer

app = FastAPI()
score = load()


class Tensor(BaseModel):
    """An input."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class Output(BaseModel):
    """An output."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferRequest(BaseModel):
    """What is asked."""

    inputs: list[Tensor]


class InferResponse(BaseModel):
    """What is answered."""

    model_name: str
    outputs: list[Output]


@app.post("/v2/models/bench/infer")
async def infer(request: InferRequest) -> InferResponse:
    """Answers; scoring takes microseconds, so a thread of its own would only cost time."""
    tensor = request.inputs[0]
    answer: dict[str, Any] = v2_answer(score(matrix(tensor.shape, tensor.data)))
    return InferResponse(**answer)
