"""Whether a server answers, and whether its answers are the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from bench.serving.model import TOLERANCE, Vector
from bench.serving.requests import Exchange

TIMEOUT_S = 10.0


class WrongAnswerError(Exception):
    """An answer that is no answer, or not the model's."""


@dataclass(frozen=True)
class Checked:
    """What comparing answers came to.

    Attributes:
        difference: Largest difference from the model's own probability.
        answer_bytes: Length of an answer's body; a gRPC answer's frame.
        served: Rows by the version (its index) whose answer they got.
    """

    difference: float
    answer_bytes: int
    served: tuple[int, ...]


def answers(base: str, exchange: Exchange) -> bool:
    """Whether the first request gets an answer."""
    try:
        with Asker(base, exchange) as asker:
            return bool(asker.ask(exchange.bodies[0])[1])
    except WrongAnswerError:
        return False


def compare(base: str, exchange: Exchange, accepted: Sequence[Vector]) -> Checked:
    """Asks with every body and holds the answers against the model's own.

    Raises:
        WrongAnswerError: An answer is missing, or is none of the accepted ones.
    """
    worst, size, served = 0.0, 0, [0] * len(accepted)
    with Asker(base, exchange) as asker:
        for body, rows in zip(exchange.bodies, exchange.rows, strict=True):
            headers, answer = asker.ask(body)
            size = len(answer)
            values = exchange.parse(headers, answer)
            wanted = [version[rows] for version in accepted]
            if any(len(values) != len(each) for each in wanted):
                raise WrongAnswerError(f"{len(values)} answers for rows {rows}")
            for index, value in enumerate(values):
                version, difference = nearest(value, [each[index] for each in wanted])
                served[version] += 1
                worst = max(worst, difference)
    if not worst <= TOLERANCE:
        raise WrongAnswerError(f"an answer is off by {worst:.2g}")
    return Checked(worst, size, tuple(served))


def nearest(value: float, wanted: Sequence[float]) -> tuple[int, float]:
    """Which of the wanted values comes closest, and how close; NaN is infinitely far."""
    gaps = [abs(value - each) if value == value else float("inf") for each in wanted]
    closest = min(range(len(gaps)), key=gaps.__getitem__)
    return closest, float(gaps[closest])


class Asker:
    """Asks one request after the other, over HTTP/1.1 or gRPC."""

    def __init__(self, base: str, exchange: Exchange) -> None:
        self._exchange = exchange
        self._http = httpx.Client(base_url=base, timeout=TIMEOUT_S)
        self._base = base

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, body: bytes) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of an answer.

        Raises:
            WrongAnswerError: There is none, or it says that something is wrong.
        """
        if self._exchange.grpc:
            return {}, self._call(body)
        try:
            answer = self._http.post(
                self._exchange.path, content=body, headers=dict(self._exchange.headers)
            )
        except httpx.HTTPError as error:
            raise WrongAnswerError(f"no answer: {type(error).__name__}") from error
        if answer.status_code != httpx.codes.OK:
            raise WrongAnswerError(f"status {answer.status_code}: {answer.text[:200]}")
        return {name.lower(): value for name, value in answer.headers.items()}, answer.content

    def _call(self, frame: bytes) -> bytes:
        import grpc

        from bench.serving.requests import grpc_frame, grpc_message

        with grpc.insecure_channel(self._base.removeprefix("http://")) as channel:
            method: Any = channel.unary_unary(self._exchange.path)
            metadata = [
                (name, value)
                for name, value in self._exchange.headers.items()
                if name not in ("content-type", "te")
            ]
            try:
                answer = method(grpc_message(frame), timeout=TIMEOUT_S, metadata=metadata)
            except grpc.RpcError as error:
                raise WrongAnswerError(f"{error.code().name}: {error.details()}") from error
        return grpc_frame(answer)
