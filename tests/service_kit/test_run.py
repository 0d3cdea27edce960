"""A whole service as a process of its own, from its first to its last line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from service_kit.channels import open_channel
from service_kit.security import read_service_token
from service_kit.settings import ServiceSettings
from tests.service_kit import echo

ROOT = Path(__file__).parents[2]

SERVICE = """
import sys, time, warnings
from service_kit.server import Application, run
from service_kit.settings import ServiceSettings

class EchoSettings(ServiceSettings):
    mode: str = "well"

class Beside:
    def start(self): print("beside started", file=sys.stderr)
    def stop(self): print("beside stopped", file=sys.stderr)

def build(settings):
    if settings.mode == "broken":
        raise RuntimeError("no such table")
    from tests.service_kit import echo
    warnings.warn("a warning")
    def answer(text, context):
        if text == "sleep":
            time.sleep(60)
        return text
    servicer = echo.Echo(answer)
    return Application([(echo.add_to_server, servicer)], [Beside()], {"nothing": lambda: None})

run("echo", build, EchoSettings)
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MODELYARD_")}
    ours = {"home": str(home), "ready_file": str(home / "ready.json")} | more
    return kept | {f"MODELYARD_{key.upper()}": value for key, value in ours.items()}


@contextmanager
def running(home: Path, **more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        cwd=ROOT,
        env=environment(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until((home / "ready.json").exists)
        yield process, json.loads((home / "ready.json").read_bytes())
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_a_service_starts_serves_and_stops(tmp_path: Path) -> None:
    with running(tmp_path) as (process, facts):
        settings = ServiceSettings(service="test", home=tmp_path)
        with open_channel(facts["grpc"], settings) as channel:
            assert echo.EchoStub(channel).say(echo.said("x")).value == "x"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=5)
    assert (process.returncode, out) == (0, "")
    plain = [line for line in err.splitlines() if not line.startswith("{")]
    assert plain == ["beside started", "beside stopped"]
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {line["service"] for line in lines} == {"echo"}
    assert any("a warning" in line["message"] for line in lines)
    assert read_service_token(tmp_path) not in err


def test_a_handler_that_never_returns_does_not_hold_the_end(tmp_path: Path) -> None:
    with running(tmp_path) as (process, facts):
        settings = ServiceSettings(service="test", home=tmp_path)
        with open_channel(facts["grpc"], settings) as channel:
            stuck = echo.EchoStub(channel).say.future(echo.said("sleep"), timeout=30)
            echo.EchoStub(channel).say(echo.said("x"))
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
            assert time.monotonic() - started < 5.5
            assert stuck.code() is grpc.StatusCode.UNAVAILABLE or stuck.exception() is not None


def test_a_service_that_cannot_start_says_why_and_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVICE],
        cwd=ROOT,
        env=environment(tmp_path, mode="broken"),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    reasons = [line["exception"] for line in lines if line["level"] == "CRITICAL"]
    assert len(reasons) == 1
    assert "no such table" in reasons[0]


def test_wrong_settings_are_named_without_their_values(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVICE],
        cwd=ROOT,
        env=environment(tmp_path, log_level="hunter2", tls_cert="/nowhere"),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "log_level" in line
    assert "hunter2" not in line


def test_a_service_ends_with_its_parent(tmp_path: Path) -> None:
    parent = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {SERVICE!r}])
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=ROOT,
        env=environment(tmp_path, die_with_parent="1"),
        stderr=subprocess.DEVNULL,
    )
    try:
        until((tmp_path / "ready.json").exists)
    finally:
        process.kill()
        process.wait()
    child = json.loads((tmp_path / "ready.json").read_bytes())["pid"]
    until(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
