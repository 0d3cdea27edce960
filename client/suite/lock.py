"""One suite a home: whoever holds the lock on its file runs it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from io import FileIO
from pathlib import Path

from client.errors import ModelyardError

_ATTEMPTS, _PAUSE_S = 5, 0.02


class HomeInUse(ModelyardError):  # noqa: N818
    """Another launcher runs a suite in this home."""


class HomeLock:
    """Held for the launcher's life; the kernel lets go of it however that ends.

    Args:
        home: Folder of the suite.
    """

    def __init__(self, home: Path) -> None:
        self._path = lock_file(home)
        self._file: FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._file is not None

    def take(self) -> None:
        """Take it.

        Raises:
            HomeInUse: Naming the process that holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not inherited by children: none of them could keep a dead launcher's home locked.
        file = FileIO(self._path, "a+")
        if not _lock(file):
            pid = self._path.read_text().strip() or "unknown"
            file.close()
            raise HomeInUse(
                f"a suite runs in {self._path.parent.parent} already (pid {pid}): stop it with "
                "`modelyard down`, or choose another --home and --port"
            )
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        self._file = file

    def release(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def _lock(file: FileIO) -> bool:
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_PAUSE_S)  # somebody may just be looking whether it is held
    return False


def lock_file(home: Path) -> Path:
    """The file that is locked."""
    return home / "run" / "lock"


def holder(home: Path) -> int | None:
    """Process id of the launcher that runs a suite in a home; nothing when none does."""
    try:
        with FileIO(lock_file(home), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = lock_file(home).read_text().strip()
        return int(text) if text.isdecimal() else None
    except OSError:
        return None
    return None
