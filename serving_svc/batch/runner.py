"""The parent's side: has shards scored by a child on Ray, and follows its progress."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import IO

from service_kit.errors import FailedPrecondition, Unavailable
from serving_svc.batch.scoring import ShardTask

CHILD = "serving_svc.batch.ray_child"
LOOK_S = 0.5


class RayShardRunner:
    """Scores shards on a Ray cluster.

    Args:
        address: `host:port` of Ray's GCS.
        workers: Workers at most.
        cpus: CPUs that Ray sets aside for each.
    """

    def __init__(self, address: str, workers: int, cpus: float) -> None:
        self._address = address
        self._workers = workers
        self._cpus = cpus

    def score(
        self,
        task: ShardTask,
        shards: Sequence[int],
        done: Callable[[int, int], None],
        stopped: Callable[[], bool],
    ) -> bool:
        """Score shards in a child; True once all are scored, False when asked to stop meanwhile.

        Each scored shard lies in the task's folder when `done` is told of it, in any order. What
        is under way when it stops or raises is lost, and scored again by the next call.

        Args:
            task: What is scored, and where its shards lie.
            shards: Numbers of the shards to score, at least one.
            done: Told rows and refused rows of each shard.
            stopped: Asked twice a second whether to stop.

        Raises FailedPrecondition with the reason why the model can't score, Unavailable with what
        kept it from going on for now, `BATCH_CHILD_LOST` when the child ended early.
        """
        request = {
            "address": self._address,
            "task": asdict(task),
            "shards": list(shards),
            "workers": self._workers,
            "cpus": self._cpus,
        }
        # By its thread the child knows when to end: this one lasts as long as the work.
        with subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", CHILD, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                return self._follow(child, json.dumps(request), len(shards), done, stopped)
            finally:
                child.kill()

    def _follow(
        self,
        child: subprocess.Popen[str],
        request: str,
        left: int,
        done: Callable[[int, int], None],
        stopped: Callable[[], bool],
    ) -> bool:
        assert child.stdin is not None
        assert child.stdout is not None
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_pass_on, args=(child.stdout, lines), daemon=True).start()
        try:
            child.stdin.write(request + "\n")
            child.stdin.flush()
        except OSError as error:
            raise _lost() from error
        while left:
            if stopped():
                return False
            try:
                line = lines.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            done(*_counts(line))
            left -= 1
        return True


def _pass_on(source: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in source:
        lines.put(line)
    lines.put("")


def _counts(line: str) -> tuple[int, int]:
    if not line:
        raise _lost()
    answer = json.loads(line)
    if "error" in answer:
        kind = Unavailable if answer["passing"] else FailedPrecondition
        raise kind(answer["error"], answer["message"])
    return answer["rows"], answer["refused"]


def _lost() -> Unavailable:
    return Unavailable("BATCH_CHILD_LOST", "the process that scores has ended early")
