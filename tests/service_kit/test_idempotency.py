from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Engine, func, select

from service_kit.database import reading, transaction
from service_kit.errors import AlreadyExists, InvalidArgument
from service_kit.idempotency import forget_answers, once
from tests.service_kit.sample_svc.storage import IDEMPOTENCY, Shelf


def create(
    engine: Engine, name: str, request_id: str = "r1", method: str = "CreateShelf"
) -> StringValue:
    with transaction(engine) as session:

        def build() -> StringValue:
            session.add(Shelf(name=name))
            session.flush()
            return StringValue(value=f"made {name}")

        return once(
            session,
            IDEMPOTENCY,
            method=method,
            request_id=request_id,
            fingerprint=name.encode(),
            build=build,
            parse=StringValue.FromString,
        )


def test_repetition_gets_the_first_answer(engine: Engine) -> None:
    first = create(engine, "a")
    assert create(engine, "a") == first == StringValue(value="made a")


def test_same_id_with_another_body_is_refused(engine: Engine) -> None:
    create(engine, "a")
    with pytest.raises(InvalidArgument) as caught:
        create(engine, "b")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")


def test_same_id_on_another_method_is_another_request(engine: Engine) -> None:
    create(engine, "a")
    assert create(engine, "b", method="Other").value == "made b"


def test_without_an_id_every_call_acts(engine: Engine) -> None:
    create(engine, "a", request_id="")
    with pytest.raises(Exception, match="shelves"):
        create(engine, "a", request_id="")


def test_too_long_an_id_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="REQUEST_ID_TOO_LONG"):
        create(engine, "a", request_id="x" * 129)


def test_failure_is_not_kept(engine: Engine) -> None:
    def refuse() -> StringValue:
        raise AlreadyExists("SHELF_EXISTS", "the shelf exists")

    with pytest.raises(AlreadyExists), transaction(engine) as session:
        once(
            session,
            IDEMPOTENCY,
            method="CreateShelf",
            request_id="r1",
            fingerprint=b"a",
            build=refuse,
            parse=StringValue.FromString,
        )
    assert create(engine, "a").value == "made a"


def test_concurrent_twins_act_once(engine: Engine) -> None:
    answers: list[StringValue] = []
    barrier = threading.Barrier(4)

    def call() -> None:
        barrier.wait()
        answers.append(create(engine, "a"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [StringValue(value="made a")] * 4


def test_old_answers_are_forgotten(engine: Engine) -> None:
    create(engine, "a")
    now = datetime.now(UTC)
    with transaction(engine) as session:
        assert forget_answers(session, IDEMPOTENCY, now - timedelta(days=1)) == 0
        assert forget_answers(session, IDEMPOTENCY, now + timedelta(seconds=1)) == 1
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(IDEMPOTENCY)) == 0
