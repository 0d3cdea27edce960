"""LitServe: an API with its worker process."""

from __future__ import annotations

import os
from typing import Any

import litserve
from scorer import load, matrix, v2_answer


class Bench(litserve.LitAPI):  # type: ignore[misc]
    """The model."""

    def setup(self, _device: str) -> None:
        """Loads it."""
        self._score = load()

    # An annotation would make FastAPI look for the request in the query.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """Reads a tensor."""
        tensor = request["inputs"][0]
        return matrix(tensor["shape"], tensor["data"])

    def predict(self, rows: Any) -> Any:
        """Scores."""
        return self._score(rows)

    def encode_response(self, values: Any) -> dict[str, Any]:
        """Writes the answer."""
        answer: dict[str, Any] = v2_answer(values)
        return answer


if __name__ == "__main__":
    server = litserve.LitServer(
        Bench(api_path="/v2/models/bench/infer"),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
