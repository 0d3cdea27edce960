"""The life of this process in its family."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import threading
import time

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5
#: New objects after which the youngest are looked through; requests make dozens each.
_GC_THRESHOLD = 50_000


def die_with_parent(signum: signal.Signals = signal.SIGTERM) -> None:
    """Make this process end when its parent does, so that nothing is left orphaned.

    On Linux the kernel sends the signal, when the *thread* that started this process ends;
    elsewhere a thread of our own looks whether the parent has changed.
    """
    parent = os.getppid()
    if platform.system() == "Linux":
        _ask_for(signum)
        if os.getppid() != parent:  # It ended just before we asked.
            os.kill(os.getpid(), signum)
        return
    threading.Thread(
        target=_watch_parent, args=(parent, signum), name="parent-watch", daemon=True
    ).start()


def outlive_parent() -> None:
    """Take back what `die_with_parent` asked the kernel for. Linux only."""
    _ask_for(0)


def settle_memory() -> None:
    """Call once a process has everything that it keeps: the collector of cycles leaves that alone.

    Hundreds of thousands of objects of modules and contracts are looked through at each full
    collection otherwise, for a tenth of a second in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)


def _ask_for(signum: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _watch_parent(parent: int, signum: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signum)
