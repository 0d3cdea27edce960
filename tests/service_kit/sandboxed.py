"""What children of the sandbox's tests do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from service_kit.errors import InvalidArgument

Json = dict[str, Any]


def double(folder: Path, request: Json) -> Json:
    (folder / "made").write_bytes((folder / "given").read_bytes() * 2)
    return {"number": 2 * request["number"], "names": sorted(os.environ), "pid": os.getpid()}


def refuse(_: Path, __: Json) -> Json:
    raise InvalidArgument("TOO_ODD", "is odd", field="number")


def stumble(_: Path, __: Json) -> Json:
    raise ZeroDivisionError("secret detail")


def abort(_: Path, __: Json) -> Json:
    os.kill(os.getpid(), signal.SIGABRT)
    return {}


def leave(_: Path, __: Json) -> Json:
    os._exit(3)


def devour(_: Path, __: Json) -> Json:
    return {"size": len(bytearray(2 << 30))}


def scribble(folder: Path, _: Json) -> Json:
    (folder / "large").write_bytes(bytes(2 << 20))
    return {}


def hang(folder: Path, _: Json) -> Json:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder / "pids.tmp").write_text(f"{os.getpid()} {other.pid}")
    (folder / "pids.tmp").rename(folder / "pids")
    time.sleep(60)
    return {}
