"""Conversions through their contract, on the real durable engine and with real children."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pytest
from modelyard.training.v1 import conversion_pb2 as pb
from modelyard.training.v1 import conversion_pb2_grpc, training_pb2

from service_kit.channels import calling
from service_kit.clock import FixedClock
from service_kit.database import make_engine, migrate
from service_kit.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound
from service_kit.sandbox import Limits
from tests.serving_svc import models
from tests.training_svc import conversion_process
from tests.training_svc.examples import WHEN
from tests.training_svc.test_trainers import data
from tests.training_svc.world import World
from training_svc.conversion_workflow import ConversionWorkflow, Converter
from training_svc.domain.conversions import CONVERTIBLE, Conversion, ConversionState, check_wanted
from training_svc.domain.parity import PREDICTION
from training_svc.domain.pipelines import ConversionSpec
from training_svc.ports import Check, Document
from training_svc.service import Conversions
from training_svc.tables import to_bytes

Stub = conversion_pb2_grpc.ConversionServiceStub
State = pb.Conversion.State


@contextmanager
def refused(kind: type[DomainError], reason: str, field: str) -> Iterator[None]:
    with pytest.raises(kind) as error, calling("training"):
        yield
    assert (error.value.reason, error.value.field) == (reason, field)


@pytest.fixture
def conversions(training_channel: grpc.Channel) -> Stub:
    return conversion_pb2_grpc.ConversionServiceStub(training_channel)


def wanted(world: World, source: bytes, rows: bytes, **fields: Any) -> pb.Conversion:
    return pb.Conversion(
        source=world.registry.write(source),
        sample=world.registry.write(rows),
        **{"format": "lightgbm", **fields},
    )


def booster() -> bytes:
    return str(models.booster().model_to_string()).encode()


def sample(**more: Any) -> bytes:
    inputs, _ = data(200)
    return to_bytes({**{f"x{at}": inputs[:, at] for at in range(3)}, **more})


def create(stub: Stub, conversion: pb.Conversion, request_id: str = "") -> pb.Conversion:
    request = pb.CreateConversionRequest(conversion=conversion, request_id=request_id)
    made: pb.Conversion = stub.CreateConversion(request)
    return made


def wait(stub: Stub, name: str, seconds: int = 60) -> pb.Conversion:
    request = pb.WaitConversionRequest(name=name)
    request.timeout.FromSeconds(seconds)
    found: pb.Conversion = stub.WaitConversion(request, timeout=seconds + 10)
    return found


def test_a_file_is_converted_and_its_artifacts_are_stored(conversions: Stub, world: World) -> None:
    asked = wanted(world, booster(), sample())
    made = create(conversions, asked, "once")
    assert made.state == State.STATE_QUEUED
    assert made.create_time.seconds > 0
    done = wait(conversions, made.name)
    assert done.state == State.STATE_SUCCEEDED, done.reason
    assert done.end_time.ToNanoseconds() > done.create_time.ToNanoseconds()
    assert (done.runtime, list(done.inputs)) == ("onnx", ["x0", "x1", "x2"])
    assert [each.role for each in done.artifacts] == ["model", "source_model", "sample"]
    for each in done.artifacts:
        assert world.registry.read(each.artifact)
    assert done.artifacts[1].artifact == asked.source
    assert done.artifacts[2].artifact == asked.sample
    (report,) = done.parity_reports
    assert report.passed
    assert (report.target, report.source) == (done.artifacts[0].artifact, asked.source)
    assert report.tolerance == done.spec.tolerance == 1e-4
    assert create(conversions, asked, "once").name == made.name
    assert conversions.GetConversion(pb.GetConversionRequest(name=made.name)) == done
    listed = conversions.ListConversions(pb.ListConversionsRequest()).conversions
    assert [each.name for each in listed] == [made.name]


def test_answers_that_differ_are_refused_with_the_report(conversions: Stub, world: World) -> None:
    said = sample(**{PREDICTION: np.full(200, 0.5)})
    made = create(conversions, wanted(world, booster(), said))
    done = wait(conversions, made.name)
    assert done.state == State.STATE_REFUSED
    assert "does not score as the model did" in done.reason
    assert (done.runtime, len(done.artifacts)) == ("", 0)
    (report,) = done.parity_reports
    assert not report.passed
    assert (report.row_count, report.target) == (200, "")
    assert report.share_beyond > 0.9


def test_a_file_that_ends_the_child_s_process_fails_the_conversion_alone(
    conversions: Stub, world: World
) -> None:
    broken = booster().replace(b"num_leaves=7", b"num_leaves=70000", 1)
    made = create(conversions, wanted(world, broken, sample()))
    done = wait(conversions, made.name)
    assert done.state == State.STATE_FAILED
    assert done.reason.startswith("CONVERSION_CRASHED: ")
    assert "SIGABRT" in done.reason
    assert not done.artifacts
    sound = create(conversions, wanted(world, booster(), sample()))
    assert wait(conversions, sound.name).state == State.STATE_SUCCEEDED


def test_what_is_missing_is_said(conversions: Stub, world: World) -> None:
    asked = wanted(world, booster(), sample())
    asked.source = "artifacts/" + "0" * 64
    done = wait(conversions, create(conversions, asked).name)
    assert done.state == State.STATE_FAILED
    assert done.reason == "ARTIFACT_NOT_FOUND: no such artifact"


def test_a_conversion_is_stopped(conversions: Stub, world: World) -> None:
    # One at a time: the second waits for the first.
    first, second = (create(conversions, wanted(world, booster(), sample())) for _ in range(2))
    stopped = conversions.CancelConversion(pb.CancelConversionRequest(name=second.name))
    assert stopped.state == State.STATE_CANCELLED
    again = conversions.CancelConversion(pb.CancelConversionRequest(name=second.name))
    assert again == stopped
    assert wait(conversions, first.name).state == State.STATE_SUCCEEDED
    assert wait(conversions, second.name) == stopped


def test_bad_requests_name_the_field(conversions: Stub, world: World) -> None:
    good = wanted(world, booster(), sample())

    def create_with(**changes: Any) -> None:
        asked = pb.Conversion()
        asked.CopyFrom(good)
        asked.MergeFrom(pb.Conversion(**changes))
        create(conversions, asked)

    with refused(InvalidArgument, "INVALID_NAME", "conversion.source"):
        create_with(source="/etc/passwd")
    with refused(InvalidArgument, "INVALID_NAME", "conversion.sample"):
        create_with(sample="artifacts/short")
    with refused(InvalidArgument, "FORMAT_NOT_CONVERTIBLE", "conversion.format"):
        create_with(format="pickle")
    with refused(InvalidArgument, "OUT_OF_RANGE", "conversion.output_count"):
        create_with(output_count=-1)
    wild = training_pb2.ConversionSpec(tolerance=float("nan"))
    with refused(InvalidArgument, "OUT_OF_RANGE", "conversion.spec.tolerance"):
        create_with(spec=wild)
    with refused(NotFound, "CONVERSION_NOT_FOUND", "name"):
        conversions.GetConversion(pb.GetConversionRequest(name="conversions/none"))
    with refused(InvalidArgument, "INVALID_NAME", "name"):
        conversions.GetConversion(pb.GetConversionRequest(name="none"))
    assert not conversions.ListConversions(pb.ListConversionsRequest()).conversions


def test_pages_of_conversions(conversions: Stub, world: World) -> None:
    asked = wanted(world, b"", b"")
    names = [create(conversions, asked).name for _ in range(3)]
    first = conversions.ListConversions(pb.ListConversionsRequest(page_size=2))
    assert [each.name for each in first.conversions] == names[:0:-1]
    rest = conversions.ListConversions(
        pb.ListConversionsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [each.name for each in rest.conversions] == names[:1]
    assert rest.next_page_token == ""


def test_a_killed_process_s_conversion_goes_on(
    sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_kit.durable.engine.QUEUE_POLL_S", 0.1)
    world, app_name = World(tmp_path / "world"), f"training-{secrets.token_hex(4)}"
    engine = make_engine(sql_url)
    migrate(engine, "training_svc")
    engine.dispose()
    durable, cases, store = conversion_process.build(sql_url, app_name, world)
    asked = Conversion(
        "", world.registry.write(booster()), "lightgbm", world.registry.write(sample()), WHEN
    )
    with store.transaction() as records:
        conversion = cases.create(records, asked)
    world.stall.touch()
    command = [sys.executable, "-m", conversion_process.__name__, sql_url, app_name]
    process = subprocess.Popen([*command, str(world.folder), conversion.id])
    try:
        deadline = time.monotonic() + 60
        while not world.journal:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    world.stall.unlink()
    durable.launch()
    try:
        done = cases.wait(conversion.id, 60.0)
    finally:
        durable.shutdown()
    assert done.state is ConversionState.SUCCEEDED, done.reason
    assert world.journal == ["convert", "convert"]


# --- without a child, an engine or a database ---


class Memory:
    """Records in a dictionary; each transaction is at once."""

    def __init__(self) -> None:
        self.kept: dict[str, Conversion] = {}

    def transaction(self) -> Any:
        return self

    reading = transaction

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def conversion(self, conversion_id: str, *, to_change: bool = False) -> Conversion | None:
        return self.kept.get(conversion_id)

    def unfinished_conversions(self) -> list[Conversion]:
        return [each for each in self.kept.values() if not each.state.ended]

    def save_conversion(self, conversion: Conversion) -> None:
        self.kept[conversion.id] = conversion


class Engine:
    """Remembers what was started; states as told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.states: dict[str, str] = {}

    def start(self, name: str, workflow_id: str, input: Document, *, queue: str = "") -> None:  # noqa: A002
        assert (name, input, queue) == ("conversion", {"conversion": workflow_id}, "conversions")
        self.started.append(workflow_id)

    def status(self, workflow_id: str) -> str:
        if workflow_id not in self.states:
            raise NotFound("WORKFLOW_NOT_FOUND", "none")
        return self.states[workflow_id]

    def cancel(self, workflow_id: str) -> None:
        self.started.remove(workflow_id)


class Directly:
    """A workflow's context that does each step at once."""

    def check(self) -> None:
        """Goes on."""

    def step(self, name: str, function: Any, *args: Any, retries: int = 3) -> Any:
        return function(*args)

    def receive(self, topic: str, timeout: float) -> Document | None:
        raise AssertionError("nobody is asked")


ASKED = Conversion(
    "",
    "artifacts/" + "a" * 64,
    "onnx",
    "artifacts/" + "b" * 64,
    WHEN,
    ConversionSpec(tolerance=0.5),
)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def cases(memory: Memory) -> Conversions:
    return Conversions(FixedClock(WHEN), memory, Engine())  # type: ignore[arg-type]


def carried_out(memory: Memory, conversion: Conversion, convert: Any) -> Conversion:
    workflow = ConversionWorkflow(memory, convert, FixedClock(WHEN))
    workflow(Directly(), {"conversion": conversion.id})
    return memory.kept[conversion.id]


def test_what_converting_gives_is_recorded(memory: Memory, cases: Conversions) -> None:
    conversion = cases.create(memory, ASKED)  # type: ignore[arg-type]
    seen: list[ConversionState] = []

    def convert(given: Conversion, check: Check) -> Document:
        seen.append(memory.kept[given.id].state)
        return {
            "state": "SUCCEEDED",
            "reason": "fine",
            "runtime": "onnx",
            "inputs": ["a"],
            "artifacts": [["model", "model.onnx", given.source, "onnx"]],
            "parity_reports": [{"method": "onnx", "passed": True}],
        }

    done = carried_out(memory, conversion, convert)
    assert seen == [ConversionState.RUNNING]
    assert (done.state, done.reason, done.end_time) == (ConversionState.SUCCEEDED, "fine", WHEN)
    assert done.artifacts == (
        ("model", "model.onnx", ASKED.source, "onnx"),
        ("sample", "sample.arrow", ASKED.sample, "arrow"),
    )
    assert done.parity_reports == ({"method": "onnx", "passed": True},)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FailedPrecondition("MODEL_UNUSABLE", "it is none"), "MODEL_UNUSABLE: it is none"),
        (KeyError("detail"), "INTERNAL: KeyError"),
    ],
)
def test_what_goes_wrong_ends_in_the_record(
    memory: Memory, cases: Conversions, error: Exception, reason: str
) -> None:
    def convert(_: Conversion, __: Check) -> Document:
        raise error

    done = carried_out(memory, cases.create(memory, ASKED), convert)  # type: ignore[arg-type]
    assert (done.state, done.reason) == (ConversionState.FAILED, reason)


def test_one_that_was_stopped_is_neither_begun_nor_finished(
    memory: Memory, cases: Conversions
) -> None:
    conversion = cases.create(memory, ASKED)  # type: ignore[arg-type]
    cases.start(conversion)
    stopped = cases.cancel(memory, conversion.id)  # type: ignore[arg-type]
    cases.stop(stopped)
    assert cases.engine.started == []  # type: ignore[attr-defined]

    def convert(_: Conversion, __: Check) -> Document:
        raise AssertionError("it was stopped")

    assert carried_out(memory, conversion, convert) == stopped
    cases.start(stopped)
    assert cases.engine.started == []  # type: ignore[attr-defined]


def test_a_crash_between_record_and_start_is_made_good(memory: Memory, cases: Conversions) -> None:
    never, dead, alive = (cases.create(memory, ASKED) for _ in range(3))  # type: ignore[arg-type]
    states = {dead.id: "FAILED", alive.id: "RUNNING"}
    cases.engine.states.update(states)  # type: ignore[attr-defined]
    cases.recover()
    assert cases.engine.started == [never.id]  # type: ignore[attr-defined]
    assert memory.kept[dead.id].state is ConversionState.FAILED
    assert memory.kept[alive.id].state is ConversionState.QUEUED


def test_waiting_ends_with_the_time(memory: Memory, cases: Conversions) -> None:
    conversion = cases.create(memory, ASKED)  # type: ignore[arg-type]
    began = time.monotonic()
    assert cases.wait(conversion.id, 0.1).state is ConversionState.QUEUED
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", CONVERTIBLE)
def test_formats_that_run_no_code_are_taken(kind: str) -> None:
    check_wanted(replace(ASKED, format=kind))
    with pytest.raises(InvalidArgument, match="never read"):
        check_wanted(replace(ASKED, format=f"{kind}.pickle"))


def test_who_takes_too_long_is_ended(world: World) -> None:
    asked = Conversion(
        "c", world.registry.write(booster()), "lightgbm", world.registry.write(sample()), WHEN
    )
    converter = Converter(world.registry, Limits(seconds=0.2))
    with pytest.raises(FailedPrecondition, match=r"took over 0\.2 s") as caught:
        converter(asked, lambda: None)
    assert caught.value.reason == "CONVERSION_CRASHED"
