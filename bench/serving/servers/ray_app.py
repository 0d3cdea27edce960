"""Ray Serve: one replica behind its own proxy."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray
from ray import serve
from scorer import load, matrix, v2_answer
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Bench:
    """The model."""

    def __init__(self) -> None:
        self._score = load()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answers."""
        tensor = (await request.json())["inputs"][0]
        rows = matrix(tensor["shape"], tensor["data"])
        answer: dict[str, Any] = v2_answer(self._score(rows))
        return answer


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Bench.bind(), route_prefix="/", name="bench")  # type: ignore[attr-defined]
    print("serving", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
