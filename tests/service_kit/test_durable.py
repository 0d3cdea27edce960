from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service_kit.durable import DurableEngine, StepFailed, WorkflowContext, WorkflowState
from service_kit.durable.outcomes import Json, error_from, failure
from service_kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from tests.service_kit import durable_process
from tests.service_kit.test_streams import wait_until

MakeEngine = Callable[[], DurableEngine]


@pytest.fixture
def app_name() -> str:
    """Of its own for each test: on PostgreSQL it names the schema."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.durable.engine.MESSAGE_POLL_S", 0.05)
    monkeypatch.setattr("service_kit.durable.engine.QUEUE_POLL_S", 0.1)


@pytest.fixture
def make(sql_url: str, app_name: str) -> Iterator[MakeEngine]:
    made: list[DurableEngine] = []

    def build() -> DurableEngine:
        made.append(DurableEngine(sql_url, app_name, "1"))
        return made[-1]

    yield build
    for engine in made:
        engine.shutdown()


def run(engine: DurableEngine, workflow_id: str = "w1") -> Json | None:
    engine.launch()
    engine.start("w", workflow_id, {})
    engine.wait(workflow_id, 10)
    return engine.result(workflow_id)


def test_steps_run_once_each_and_give_json(make: MakeEngine) -> None:
    engine = make()
    ran: list[str] = []

    def make_pair() -> tuple[None, int]:
        ran.append("pair")
        return None, 2

    @engine.workflow("w")
    def workflow(context: WorkflowContext, values: Json) -> Json:
        pair = context.step("pair", make_pair)
        return {"pair": pair, "input": values, "id": context.workflow_id}

    engine.launch()
    engine.start("w", "w1", {"a": [1.5, None]})
    engine.start("w", "w1", {"a": "ignored: the id is taken"})
    assert engine.wait("w1", 10) is WorkflowState.SUCCEEDED
    assert engine.result("w1") == {"pair": [None, 2], "input": {"a": [1.5, None]}, "id": "w1"}
    engine.start("w", "w1", {})
    assert ran == ["pair"]


@pytest.mark.parametrize("error", [InvalidArgument, FailedPrecondition, NotFound])
def test_final_errors_are_not_retried_and_stay_typed(
    make: MakeEngine, error: type[InvalidArgument]
) -> None:
    engine = make()
    tries: list[int] = []

    def refuse() -> None:
        tries.append(1)
        raise error("NO_MODEL", "there is no model", field="model", hint="train one")

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        context.step("refuse", refuse, backoff=0.01)
        return {}

    with pytest.raises(error) as caught:
        run(engine)
    assert (caught.value.reason, caught.value.field) == ("NO_MODEL", "model")
    assert caught.value.metadata == {"hint": "train one"}
    assert engine.status("w1") is WorkflowState.FAILED
    assert len(tries) == 1


def test_passing_errors_are_retried_and_then_given_up(make: MakeEngine) -> None:
    engine = make()
    tries: list[str] = []

    def flaky(name: str, failures: int, error: Exception) -> str:
        tries.append(name)
        if tries.count(name) <= failures:
            raise error
        return name

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        down = Unavailable("PEER_DOWN", "a peer is down")
        context.step("a", flaky, "a", 2, down, retries=2, backoff=0.001)
        try:
            context.step("b", flaky, "b", 9, down, retries=2, backoff=0.001)
        except Unavailable as error:
            return {"reason": error.reason}
        return {}

    assert run(engine) == {"reason": "PEER_DOWN"}
    assert tries == ["a"] * 3 + ["b"] * 3


def test_other_exceptions_are_named_without_their_text(make: MakeEngine) -> None:
    engine = make()

    def fail() -> None:
        raise KeyError("secret")

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        context.step("fail", fail, retries=0)
        return {}

    with pytest.raises(StepFailed) as caught:
        run(engine)
    assert caught.value.reason == "STEP_FAILED"
    assert caught.value.message == "step fail failed with KeyError"


@pytest.mark.parametrize("answer", [float("nan"), object()])
def test_answers_must_be_json(make: MakeEngine, answer: object) -> None:
    engine = make()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        context.step("odd", lambda: answer, retries=0)
        return {}

    with pytest.raises(StepFailed, match="STEP_ANSWER"):
        run(engine)


def test_a_mistake_outside_steps_fails_the_workflow(make: MakeEngine) -> None:
    engine = make()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, values: Json) -> Json:
        return {"value": values["missing"]}

    with pytest.raises(StepFailed, match="WORKFLOW_FAILED"):
        run(engine)


def test_messages_arrive_in_order_and_once(make: MakeEngine) -> None:
    engine = make()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        return {"got": [context.receive("approval", 30.0) for _ in range(2)]}

    engine.launch()
    engine.start("w", "w1", {})
    started = time.monotonic()
    engine.send("w1", "approval", {"by": "ann"}, key="k1")
    engine.send("w1", "approval", {"by": "ann"}, key="k1")
    engine.send("w1", "approval", {"by": "bob"})
    assert engine.wait("w1", 10) is WorkflowState.SUCCEEDED
    assert time.monotonic() - started < 2.0
    assert engine.result("w1") == {"got": [{"by": "ann"}, {"by": "bob"}]}
    with pytest.raises(NotFound):
        engine.send("nobody", "approval", {})


def test_receive_gives_up(make: MakeEngine) -> None:
    engine = make()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        return {"got": context.receive("approval", 0.05)}

    assert run(engine) == {"got": None}


def test_cancel_ends_a_sleep(make: MakeEngine) -> None:
    engine = make()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        context.sleep(3600)
        return {}

    engine.launch()
    engine.start("w", "w1", {})
    wait_until(lambda: bool(engine._running))
    engine.cancel("w1")
    assert engine.status("w1") is WorkflowState.CANCELLED
    wait_until(lambda: not engine._running)
    engine.cancel("w1")


def test_resume_after_cancel_does_not_repeat_steps(make: MakeEngine) -> None:
    engine = make()
    ran: list[str] = []

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        context.step("once", lambda: ran.append("once"))
        context.step("next", lambda: ran.append("next"))
        return {"got": context.receive("go", 600.0)}

    engine.launch()
    engine.start("w", "w1", {})
    wait_until(lambda: ran == ["once", "next"])  # then the first one is on record
    engine.cancel("w1")
    wait_until(lambda: not engine._running)
    engine.resume("w1")
    engine.send("w1", "go", {"on": True})
    assert engine.wait("w1", 10) is WorkflowState.SUCCEEDED
    assert engine.result("w1") == {"got": {"on": True}}
    assert ran.count("once") == 1
    with pytest.raises(FailedPrecondition):
        engine.resume("w1")


def test_shutdown_ends_waiting_workflows_and_launch_resumes_them(make: MakeEngine) -> None:
    engine = make()
    ran: list[str] = []

    @engine.workflow("receiver")
    def receiver(context: WorkflowContext, _: Json) -> Json:
        context.step("mark", lambda: ran.append("receiver"))
        return {"got": context.receive("go", 3600.0)}

    @engine.workflow("sleeper")
    def sleeper(context: WorkflowContext, _: Json) -> Json:
        context.step("mark", lambda: ran.append("sleeper"))
        context.sleep(1.5)
        return {}

    engine.launch()
    engine.start("receiver", "r1", {})
    engine.start("sleeper", "s1", {})
    wait_until(lambda: len(ran) == 2)
    engine.shutdown()
    wait_until(lambda: not [t for t in threading.enumerate() if "dbos" in t.name], 2.0)
    engine.launch()
    engine.send("r1", "go", {"on": True})
    assert engine.wait("r1", 10) is WorkflowState.SUCCEEDED
    assert engine.wait("s1", 10) is WorkflowState.SUCCEEDED
    assert engine.result("r1") == {"got": {"on": True}}
    assert len(ran) == 2


def test_queue_limits_what_runs_at_once(make: MakeEngine) -> None:
    engine = make()
    engine.queue("trainings", concurrency=1)
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        context.step("work", work)
        return {}

    engine.launch()
    for number in range(2):
        engine.start("w", f"w{number}", {}, queue="trainings")
    for number in range(2):
        assert engine.wait(f"w{number}", 15) is WorkflowState.SUCCEEDED
    assert max(most) == 1


def test_what_is_not_registered_is_refused(make: MakeEngine) -> None:
    engine = make()
    engine.launch()
    engine.ping()
    with pytest.raises(NotFound, match="WORKFLOW_UNKNOWN"):
        engine.start("nothing", "w1", {})
    for call in (engine.status, engine.cancel, engine.resume, engine.result):
        with pytest.raises(NotFound, match="WORKFLOW_NOT_FOUND"):
            call("w1")
    with pytest.raises(RuntimeError):
        make().launch()
    engine.shutdown()
    with pytest.raises(FailedPrecondition):
        engine.ping()


def test_a_step_costs_little(make: MakeEngine) -> None:
    engine = make()

    @engine.workflow("w")
    def workflow(context: WorkflowContext, _: Json) -> Json:
        for number in range(50):
            context.step(f"s{number}", lambda: None)
        return {}

    started = time.process_time()
    run(engine)
    assert (time.process_time() - started) / 50 < 0.05


def test_errors_survive_as_json() -> None:
    error = error_from(failure(PermissionDenied("NO", "not allowed", field="f", a="b")))
    assert isinstance(error, PermissionDenied)
    assert (error.reason, error.message, error.field) == ("NO", "not allowed", "f")
    unknown = error_from({**failure(error), "kind": "Strange"})
    assert isinstance(unknown, StepFailed)


def test_a_killed_process_is_resumed_where_it_was(
    sql_url: str, app_name: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    stall = Path(f"{journal}.stall")
    stall.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", durable_process.__name__, sql_url, app_name, journal, "run-1"]
    )
    try:
        wait_until(lambda: journal.exists() and "stall" in journal.read_text(), 30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    stall.unlink()
    engine = durable_process.build(sql_url, app_name, journal)
    engine.launch()
    try:
        assert engine.wait("run-1", 15) is WorkflowState.SUCCEEDED
        answer: Any = engine.result("run-1")
    finally:
        engine.shutdown()
    assert answer == {"steps": ["first", "stalled", "last"], "input": {"model": "delay"}}
    # Finished steps are not repeated; the one in flight is, under the same key.
    assert journal.read_text().split("\n") == [
        "first",
        "stall run-1:stall",
        "stall run-1:stall",
        "last",
        "",
    ]
