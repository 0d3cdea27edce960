"""A function in a process of its own: its answer comes back, and nothing else of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service_kit.errors import FailedPrecondition
from service_kit.sandbox import Limits, SandboxError, run_apart

HERE = "tests.service_kit.sandboxed"
LIMITS = Limits(seconds=30.0, memory_bytes=1 << 30, file_bytes=1 << 20)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def test_answer_and_files_come_back_and_secrets_do_not_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_SERVICE_TOKEN", "secret")
    (tmp_path / "given").write_bytes(b"ab")
    answer = run_apart(f"{HERE}:double", tmp_path, {"number": 4}, LIMITS)
    assert answer["number"] == 8
    assert answer["pid"] != os.getpid()
    assert (tmp_path / "made").read_bytes() == b"abab"
    assert "PATH" in answer["names"]
    assert not [name for name in answer["names"] if "MODELYARD" in name]


def test_a_refusal_keeps_its_reason(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="is odd") as caught:
        run_apart(f"{HERE}:refuse", tmp_path, {}, LIMITS)
    assert caught.value.reason == "TOO_ODD"


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("stumble", r"^it failed with ZeroDivisionError$"),
        ("abort", r"^its process ended with SIGABRT$"),
        ("leave", r"^its process ended early$"),
        ("devour", r"^it needs more memory than it may have$"),
        ("scribble", r"^its process ended with SIGXFSZ$|^it failed with OSError$"),
        ("no_such_function", r"^it failed with AttributeError$"),
    ],
)
def test_what_goes_wrong_in_the_child_ends_the_child(
    tmp_path: Path, function: str, why: str
) -> None:
    with pytest.raises(SandboxError, match=why):
        run_apart(f"{HERE}:{function}", tmp_path, {}, LIMITS)


def test_who_takes_too_long_is_ended_with_its_own_children(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="it took over 2 s"):
        run_apart(f"{HERE}:hang", tmp_path, {}, Limits(seconds=2.0))
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        assert not alive(pid)


def test_who_is_to_stop_ends_the_child(tmp_path: Path) -> None:
    def stop() -> None:
        if (tmp_path / "pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_apart(f"{HERE}:hang", tmp_path, {}, LIMITS, stop)
    pid = int((tmp_path / "pids").read_text().split()[0])
    assert not alive(pid)


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from service_kit.sandbox import *\n"
        f"run_apart('{HERE}:hang', Path({str(tmp_path)!r}), {{}}, Limits(60.0))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    until((tmp_path / "pids").exists)
    pid = int((tmp_path / "pids").read_text().split()[0])
    assert alive(pid)
    parent.kill()
    parent.wait()
    until(lambda: not alive(pid))
    assert not alive(pid)
