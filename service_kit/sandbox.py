"""A function in a process of its own, with limits: what it ends on, ends there.

Libraries in C++ end their process on some broken files, which no `except` catches, and take what
memory and time such a file makes them take. The child has a folder for its files, no secrets in
its environment, and the rights of whoever started it: it keeps mistakes away, no attacker.

    python -m service_kit.sandbox MODULE:FUNCTION FOLDER MEMORY_BYTES FILE_BYTES
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service_kit.errors import DomainError, FailedPrecondition
from service_kit.process import die_with_parent

Json = dict[str, Any]

REQUEST, ANSWER, ERRORS = "request.json", "answer.json", "stderr"
LOOK_S = 0.2
"""Seconds between two looks whether to stop."""
PASSED_ON = (
    *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)
"""What a child may see of our environment: nothing that is secret."""
_log = logging.getLogger(__name__)


class SandboxError(Exception):
    """The child has given no answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use.

    Attributes:
        seconds: From its start to its answer.
        memory_bytes: Address space; no limit of its own when 0.
        file_bytes: Size of any file that it writes; no limit of its own when 0.
    """

    seconds: float
    memory_bytes: int = 0
    file_bytes: int = 1 << 31


def _go_on() -> None:
    """Nothing asks to stop."""


def run_apart(
    target: str,
    folder: Path,
    request: Mapping[str, Any],
    limits: Limits,
    check: Callable[[], None] = _go_on,
    *,
    env: Mapping[str, str] | None = None,
) -> Json:
    """Call `function(folder, request)` in a child and give its answer, a JSON object.

    Args:
        target: `module:function`.
        folder: Where both sides find each other's files; the child's home.
        request: A JSON object.
        limits: What the child may use.
        check: Called a few times a second; what it raises ends the child.
        env: The child's environment; `PASSED_ON` of ours when absent.

    Raises:
        SandboxError: The child crashed, took too long, needed more than it may have, or raised
            what is no domain error.
        FailedPrecondition: The function raised a domain error; with its reason and message.
    """
    (folder / REQUEST).write_text(json.dumps(dict(request)))
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    command = [sys.executable, "-m", __name__, target, str(folder)]
    with (folder / ERRORS).open("wb") as errors:
        child = subprocess.Popen(  # noqa: S603 - our own module
            [*command, str(limits.memory_bytes), str(limits.file_bytes)],
            env=dict(env) if env is not None else kept | {"HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    try:
        _await(child, time.monotonic() + limits.seconds, check)
    except TimeoutError as error:
        raise SandboxError(f"it took over {limits.seconds:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and nothing of it is left
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return _answer(folder, child.returncode)


def _await(child: subprocess.Popen[bytes], deadline: float, check: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LOOK_S)
            return
        check()
        if time.monotonic() > deadline:
            raise TimeoutError


def _answer(folder: Path, status: int) -> Json:
    if status < 0:
        raise SandboxError(f"its process ended with {signal.Signals(-status).name}")
    try:
        answer: Json = json.loads((folder / ANSWER).read_text())
    except (OSError, ValueError) as error:
        last = (folder / ERRORS).read_text(errors="replace").strip().splitlines()[-1:]
        _log.warning("a child ended early", extra={"status": status, "last_words": last})
        raise SandboxError("its process ended early") from error
    if "failed" in answer:
        raise SandboxError(answer["failed"])
    if "refused" in answer:
        raise FailedPrecondition(answer["refused"]["reason"], answer["refused"]["message"])
    found: Json = answer["answer"]
    return found


def confine(memory_bytes: int, file_bytes: int) -> None:
    """Bind this process to its parent's life and to its limits."""
    die_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def main(target: str, folder: Path) -> None:
    """The child's side: does what is asked and writes the answer down."""
    module, _, function = target.partition(":")
    try:
        request = json.loads((folder / REQUEST).read_text())
        answer = {"answer": getattr(importlib.import_module(module), function)(folder, request)}
    except DomainError as error:
        answer = {"refused": {"reason": error.reason, "message": error.message}}
    except MemoryError:
        answer = {"failed": "it needs more memory than it may have"}
    except Exception as error:
        logging.exception("a child failed")  # noqa: LOG015 - of a process that has no other
        answer = {"failed": f"it failed with {type(error).__name__}"}
    (folder / ANSWER).write_text(json.dumps(answer))


if __name__ == "__main__":
    confine(int(sys.argv[3]), int(sys.argv[4]))
    main(sys.argv[1], Path(sys.argv[2]))
    # Libraries that were cut short by a limit may hang in their farewell, or crash.
    sys.stderr.flush()
    os._exit(0)
