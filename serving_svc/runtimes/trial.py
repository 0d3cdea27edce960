"""A first load in a process of its own: libraries in C++ end theirs on some broken files.

python -m serving_svc.runtimes.trial RUNTIME PATH INPUTS OUTPUTS CONFIG
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service_kit.errors import DomainError
from service_kit.process import die_with_parent
from serving_svc.runtimes.base import ModelUnusableError, warmed
from serving_svc.runtimes.catalog import make_runtime

TIMEOUT_S = 60.0


def try_out(runtime: str, path: Path, inputs: int, outputs: int, config: Mapping[str, Any]) -> None:
    """Load a model elsewhere, once for each file, runtime and signature on this machine.

    Raises ModelUnusableError when it can't be loaded, or its library ends the process.
    """
    passed = path.with_name(f"{path.name}.{runtime}-{inputs}-{outputs}.ok")
    if passed.is_file():
        return
    arguments = [runtime, str(path), str(inputs), str(outputs), json.dumps(dict(config))]
    try:
        ended = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "serving_svc.runtimes.trial", *arguments],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelUnusableError(f"it took over {TIMEOUT_S:g} s to load") from error
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        raise ModelUnusableError(f"the runtime {runtime} crashed while it loaded it ({name})")
    if ended.returncode:
        raise ModelUnusableError(_last_line(ended.stdout) or f"the runtime {runtime} can't load it")
    passed.touch()


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def main(runtime: str, path: str, inputs: int, outputs: int, config: str) -> str:
    """Load and warm up a model; why it can't be, or nothing."""
    die_with_parent(signal.SIGKILL)
    try:
        made = make_runtime(runtime, json.loads(config))
        warmed(made.load(Path(path), inputs, outputs), inputs, outputs)
    except (ModelUnusableError, DomainError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    why = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    sys.stdout.write(why + "\n")
    sys.exit(1 if why else 0)
