"""The child that drives Ray Data: one JSON object in, one line out for every shard.

A child, because Ray ends a process that has lost its cluster.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, TextIO

from service_kit.errors import DomainError
from service_kit.process import die_with_parent
from serving_svc.batch.scoring import PASSING, ShardScorer, ShardTask

NAMESPACE = "modelyard-batch"


class RayShards:
    """What Ray Data keeps in each of its workers."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = ShardTask(**task)
        self._scorer: ShardScorer | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the shards of a batch, one after the other."""
        return {"answer": [json.dumps(self._answer(int(shard))) for shard in batch["item"]]}

    def _answer(self, shard: int) -> dict[str, Any]:
        # Ray would wrap an error and try again what can't work, so it travels as an answer.
        try:
            if self._scorer is None:
                self._scorer = ShardScorer.of(self._task)
            rows, refused = self._scorer.run(shard)
        except DomainError as error:
            passing = isinstance(error, PASSING)
            return {"error": error.reason, "message": error.message, "passing": passing}
        except Exception as error:
            message = f"the model can't score: {type(error).__name__}"
            return {"error": "SCORING_FAILED", "message": message, "passing": False}
        return {"shard": shard, "rows": rows, "refused": refused}


def score(request: dict[str, Any], answers: TextIO) -> None:
    """Score shards on the cluster and say so as each is done."""
    import ray

    ray.init(address=request["address"], namespace=NAMESPACE, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shards = ray.data.from_items(request["shards"], override_num_blocks=len(request["shards"]))
    done = shards.map_batches(
        RayShards,
        fn_constructor_args=(request["task"],),
        batch_size=1,
        num_cpus=request["cpus"],
        concurrency=(1, min(request["workers"], len(request["shards"]))),
    )
    for row in done.iter_rows():
        answers.write(row["answer"] + "\n")
        answers.flush()


def _own_stdout() -> TextIO:
    # Whatever Ray prints goes to stderr; stdout is ours alone.
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return kept


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    score(json.loads(sys.stdin.readline()), _own_stdout())
    # Ray's own farewell may take seconds, and everything is on disk.
    os._exit(0)
