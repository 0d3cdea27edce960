"""A model in a process of its own: asked over a Unix socket, limited, started again when it ends.

A frame is a header of three little-endian uint32 (status, rows, columns) and rows x columns
float32, row-major; with a status other than 0, a text of `rows` bytes in UTF-8.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving_svc.runtimes.base import Matrix, ModelUnusableError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
#: Seconds that a guest must have lived for its end to count as the first one again.
STEADY_S = 60.0
MOST_TEXT = 10_000
MOST_VALUES = 1 << 28
_HEADER = struct.Struct("<III")
#: What a guest may see of our environment: nothing that is secret.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES")
_log = logging.getLogger(__name__)


class GuestDownError(Exception):
    """The guest does not answer now; it is being started again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a guest may use.

    Attributes:
        start_s: Seconds to load its model.
        call_s: Seconds to score one batch.
        memory_bytes: Address space.
    """

    start_s: float
    call_s: float
    memory_bytes: int


class Guest:
    """Starts the guest, asks it, and starts another one when it ends or hangs.

    Args:
        command: Program and arguments; the number of its socket and its memory limit in bytes
            are added.
        folder: Where it runs.
        limits: What it may use.
    """

    def __init__(self, command: Sequence[str], folder: str, limits: Limits) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._first = threading.Event()
        self._closing = threading.Event()
        self._trouble = ""
        # The guest asks to die with the thread that started it: one that lasts as long as we do.
        self._keeper = threading.Thread(target=self._keep, name="guest", daemon=True)

    @property
    def pid(self) -> int:
        """Process id of the present guest; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and self._socket is not None else 0

    def start(self) -> None:
        """Start it; raises ModelUnusableError when it can't load its model."""
        self._keeper.start()
        self._first.wait(self._limits.start_s + 10.0)
        if self._socket is None:
            self.stop()
            raise ModelUnusableError(self._trouble or "its process did not start in time")

    def stop(self) -> None:
        """End it, for good."""
        self._closing.set()
        process = self._process
        if process is not None:
            process.kill()
        if self._keeper.is_alive():
            self._keeper.join(timeout=5.0)

    def ask(self, matrix: Matrix) -> Matrix:
        """Score rows x inputs.

        Raises GuestDownError when the guest is away or takes too long, ModelUnusableError when
        the model itself refuses the rows.
        """
        with self._lock:
            connection = self._socket
            if connection is None:
                raise GuestDownError("its process is being started again")
            try:
                connection.settimeout(self._limits.call_s)
                deadline = time.monotonic() + self._limits.call_s
                connection.sendall(_HEADER.pack(0, *matrix.shape))
                connection.sendall(np.ascontiguousarray(matrix, dtype="<f4").data)
                return receive(connection, deadline)
            except OSError as error:
                # An answer that comes late would be taken for that of the next question.
                self._kill()
                raise GuestDownError(f"its process was ended: {type(error).__name__}") from error

    def _kill(self) -> None:
        self._socket = None
        if self._process is not None:
            self._process.kill()

    def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                self._run()
            except OSError as error:
                self._trouble = f"its process can't be started: {type(error).__name__}"
            if not self._first.is_set():
                # One that never loaded won't load the next time.
                self._first.set()
                return
            pause = FIRST_PAUSE_S if time.monotonic() - begun > STEADY_S else pause
            _log.warning("a model's process ended", extra={"again_in_s": pause})
            self._closing.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _run(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            command = [*self._command, str(theirs.fileno()), str(self._limits.memory_bytes)]
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                cwd=self._folder,
                env=kept | {"HOME": self._folder},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            theirs.close()
            try:
                if self._loaded(ours) and not self._closing.is_set():
                    self._socket = ours
                    self._first.set()
                    self._process.wait()
            finally:
                self._socket = None
                self._process.kill()
                self._process.wait()

    def _loaded(self, connection: socket.socket) -> bool:
        connection.settimeout(self._limits.start_s)
        try:
            receive(connection, time.monotonic() + self._limits.start_s)
        except ModelUnusableError as error:
            self._trouble = str(error)
        except TimeoutError:
            self._trouble = f"its process took over {self._limits.start_s:g} s to load it"
        except OSError:
            self._trouble = "its process ended while it loaded; it may need more memory"
        else:
            return True
        return False


def receive(connection: socket.socket, deadline: float) -> Matrix:
    """Read a frame; raises OSError, or ModelUnusableError with what the guest says."""
    status, rows, width = _HEADER.unpack(_exactly(connection, _HEADER.size, deadline))
    if status:
        text = _exactly(connection, min(rows, MOST_TEXT), deadline)
        raise ModelUnusableError(text.decode(errors="replace"))
    if rows * width > MOST_VALUES:
        raise ConnectionError("the answer is too large")
    content = _exactly(connection, rows * width * 4, deadline)
    return np.frombuffer(content, "<f4").reshape(rows, width)


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytearray:
    content = bytearray(size)
    view, at = memoryview(content), 0
    while at < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        got = connection.recv_into(view[at:])
        if not got:
            raise ConnectionResetError
        at += got
    return content
