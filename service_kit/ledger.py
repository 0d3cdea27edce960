"""A service's records in transactions, and effects that happen once a request id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Engine, Table
from sqlalchemy.orm import Session

from service_kit.clock import Clock
from service_kit.database import reading, transaction
from service_kit.idempotency import forget_answers, once
from service_kit.periodic import Periodic

#: A caller who repeats itself does so within minutes; a week covers a long outage.
ANSWERS_KEPT = timedelta(days=7)
_SECONDS_BETWEEN = 3_600.0

R = TypeVar("R")
M = TypeVar("M", bound=Message)


class Mutation(Protocol):
    """A request with an idempotency key (AIP-155)."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = False) -> bytes: ...  # noqa: N802


class Ledger(Generic[R]):
    """Opens transactions on the records of a service.

    Args:
        answers: The table of first answers.
        records: Makes the records of a transaction.
    """

    def __init__(self, engine: Engine, answers: Table, records: Callable[[Session], R]) -> None:
        self._engine = engine
        self._answers = answers
        self._records = records

    @contextmanager
    def reading(self) -> Iterator[R]:
        """Records that see one state and are not written."""
        with reading(self._engine) as session:
            yield self._records(session)

    @contextmanager
    def writing(self) -> Iterator[R]:
        """Records whose changes are kept when the block ends well."""
        with transaction(self._engine) as session:
            yield self._records(session)

    def once(self, request: Mutation, kind: type[M], effect: Callable[[R], M]) -> M:
        """Have an effect at most once a request id; a repeated request gets the first answer.

        Args:
            kind: Of the answer.

        Raises:
            InvalidArgument: `REQUEST_ID_REUSED` for another request, or `REQUEST_ID_TOO_LONG`.
        """
        with transaction(self._engine) as session:
            return once(
                session,
                self._answers,
                method=type(request).__name__,
                request_id=request.request_id,
                fingerprint=request.SerializeToString(deterministic=True),
                build=lambda: effect(self._records(session)),
                parse=kind.FromString,
            )


class AnswerUpkeep(Periodic):
    """Forgets first answers that nobody asks for again, at the start and every hour."""

    def __init__(self, engine: Engine, answers: Table, clock: Clock) -> None:
        super().__init__("answers", _SECONDS_BETWEEN)
        self._engine = engine
        self._answers = answers
        self._clock = clock

    def work(self) -> bool:
        """Forget once."""
        self.sweep()
        return False

    def sweep(self) -> int:
        """Forget once; gives the number of answers."""
        with transaction(self._engine) as session:
            return forget_answers(session, self._answers, self._clock.now() - ANSWERS_KEPT)
