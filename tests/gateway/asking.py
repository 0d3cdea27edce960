"""The endpoint `late`, which looks features up, and `ab`, whose traffic is divided: asking them."""

from __future__ import annotations

from typing import Any

from tests.gateway import tables
from tests.gateway.conftest import Suite

GOOD = {"carrier": "UA", "origin": "JFK", "distance": 100}
PREDICT = "/v1/endpoints/late:predict"


def split(suite: Suite, *variants: Any, replicas: dict[str, str], **fields: Any) -> None:
    suite.push(tables.route("ab", *variants, **fields), **replicas)


def ask(suite: Suite, count: int = 1, **more: Any) -> list[dict[str, Any]]:
    body = {"instances": [{"x0": i, "x1": 1, **more} for i in range(count)]}
    answer = suite.post("/v1/endpoints/ab:predict", body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"])
