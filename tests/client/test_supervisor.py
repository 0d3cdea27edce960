"""Processes that are kept alive, and that never outlive the launcher."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.errors import ModelyardError
from client.suite.lock import HomeInUse, HomeLock, holder
from client.suite.plan import ProcessSpec, SuiteSettings, database_url, plan
from client.suite.processes import Child, KeepsEnding
from client.suite.supervisor import (
    SuiteFailed,
    Supervisor,
    check_ports,
    listens,
    running_suite,
    stop_running,
)

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-c",
    """import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True); time.sleep(60)""",
)


def child(tmp_path: Path, command: tuple[str, ...]) -> Child:
    return Child(ProcessSpec("part", command, os.environ, 1), tmp_path / "logs" / "part.log")


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_stubborn_process_is_killed_when_time_is_up(tmp_path: Path) -> None:
    part = child(tmp_path, STUBBORN)
    part.start()
    until(lambda: "up" in part.tail())
    part.ask_to_stop()
    part.stop(time.monotonic() + 0.2)
    assert not alive(part.pid)


def test_a_process_that_ends_is_started_again_with_patience(tmp_path: Path) -> None:
    part = child(tmp_path, SLEEP)
    part.start()
    os.kill(part.pid, signal.SIGKILL)
    until(part.ended)
    assert not part.restart_due()
    until(part.restart_due)
    part.start()
    assert not part.ended()
    part.stop(time.monotonic())


def test_a_process_that_keeps_ending_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    part = child(tmp_path, (sys.executable, "-c", "print('no such database'); exit(3)"))
    for _ in range(6):
        part.start()
    until(part.ended)
    until(lambda: "no such database" in part.tail())
    with pytest.raises(KeepsEnding, match="no such database"):
        part.restart_due()


def test_kill_minus_nine_of_the_launcher_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from client.suite.plan import ProcessSpec\n"
        "from client.suite.processes import Child\n"
        f"spec = ProcessSpec('part', {SLEEP!r}, os.environ, 1)\n"
        f"part = Child(spec, Path({str(tmp_path)!r}, 'l'))\n"
        "part.start(); print(part.pid, flush=True); time.sleep(60)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert alive(pid)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    until(lambda: not alive(pid))


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = ProcessSpec("gateway", ("true",), {}, taken.getsockname()[1])
        with pytest.raises(SuiteFailed, match=rf"gateway \({spec.port}\)"):
            check_ports([spec])


def test_what_a_process_has_started_is_killed_before_it_is_started_again(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"import http.server as h; h.HTTPServer(('127.0.0.1', {port}), None).serve_forever()"
    script = (
        f"import subprocess, sys; w = subprocess.Popen([sys.executable, '-c', {server!r}]); "
        "print('worker', w.pid, flush=True); sys.exit(w.wait())"
    )
    part = child(tmp_path, (sys.executable, "-c", script))
    part.start()
    until(lambda: listens(port))
    (first,) = map(int, re.findall(r"worker (\d+)", part.tail(1_000)))
    os.kill(part.pid, signal.SIGKILL)
    until(part.ended)
    assert alive(first), "otherwise this test shows nothing"
    part.start()
    until(lambda: not alive(first))
    until(lambda: listens(port))
    assert not part.ended()
    part.stop(time.monotonic())


def supervisor(tmp_path: Path, *, vital: bool) -> Supervisor:
    made = Supervisor(SuiteSettings(tmp_path / "home"))
    spec = ProcessSpec("part", (sys.executable, "-c", "exit(3)"), os.environ, 1, vital)
    made.children = [Child(spec, tmp_path / "part.log")]
    return made


def test_a_part_that_can_be_spared_is_given_up_alone(tmp_path: Path) -> None:
    made = supervisor(tmp_path, vital=False)
    (part,) = made.children
    for _ in range(6):
        part.start()
    until(part.ended)
    assert made.revive() is False
    assert part.given_up
    assert json.loads(made.state_file.read_text())["processes"] == {"part": 0}


def test_a_part_that_cannot_be_spared_ends_the_suite(tmp_path: Path) -> None:
    made = supervisor(tmp_path, vital=True)
    (part,) = made.children
    for _ in range(6):
        part.start()
    until(part.ended)
    with pytest.raises(KeepsEnding):
        made.revive()


def test_a_home_has_one_suite(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    assert holder(tmp_path) is None
    lock.take()
    assert holder(tmp_path) == os.getpid()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "valkey.conf").write_text("the first one's")
    second = Supervisor(SuiteSettings(tmp_path, port=20_000))
    second.state_file.write_text(json.dumps({"pid": os.getpid(), "url": "u"}))
    with pytest.raises(HomeInUse, match=str(os.getpid())):
        second.start()
    second.stop()
    assert running_suite(tmp_path) == {"pid": os.getpid(), "url": "u"}, "left as it was"
    assert (tmp_path / "keys" / "valkey.conf").read_text() == "the first one's"
    lock.release()
    assert holder(tmp_path) is None
    assert running_suite(tmp_path) is None


def test_a_lock_ends_with_its_process_and_no_child_keeps_it(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "from client.suite.lock import HomeLock\n"
        f"lock = HomeLock(Path({str(tmp_path)!r})); lock.take()\n"
        f"child = subprocess.Popen({SLEEP!r})\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    orphan = int(launcher.stdout.readline())
    try:
        assert holder(tmp_path) == launcher.pid
        launcher.kill()
        launcher.wait()
        assert holder(tmp_path) is None
    finally:
        launcher.stdout.close()
        os.kill(orphan, signal.SIGKILL)


def test_down_leaves_strangers_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        (tmp_path / "run").mkdir()
        state = {"pid": stranger.pid, "url": "u"}
        (tmp_path / "run" / "suite.json").write_text(json.dumps(state))
        assert running_suite(tmp_path) is None
        assert stop_running(tmp_path) is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_database_address_must_name_the_service(tmp_path: Path) -> None:
    with pytest.raises(ModelyardError, match=r"\{area\}"):
        Supervisor(SuiteSettings(tmp_path, database_url="postgresql://db/modelyard"))
    settings = SuiteSettings(tmp_path, database_url="postgresql://me:p{w}@db/my_{area}")
    assert database_url(settings, "registry") == "postgresql://me:p{w}@db/my_registry"


def test_every_fixed_port_is_looked_at(tmp_path: Path) -> None:
    specs = plan(SuiteSettings(tmp_path, port=20_000))
    ports = [port - 20_000 for spec in specs for port in spec.ports]
    assert sorted(ports) == sorted({*ports}), "no port is given twice"
    assert {0, 1, 50, *range(21, 28), *range(71, 77), *range(30, 35), 40} == {*ports}


def test_no_suite_runs_in_an_empty_home(tmp_path: Path) -> None:
    assert running_suite(tmp_path) is None
    (tmp_path / "run").mkdir()
