"""Clients of others, unchanged, over real connections: `tritonclient` and KServe's.

They live in an environment of their own, `make clients`: what they need does not fit the suite's.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelyard.data.v1 import data_pb2

from gateway.hotlane.protocol import HotLaneProtocol
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const, total
from tests.gateway.sockets import Served

PROGRAMS = Path(__file__).parent / "clients"
PYTHON = Path(sys.prefix) / "clients" / "bin" / "python"
SCORES = [10 + 1.5 + 100.5 + 7 + 0, 20 + 2.5 + 200 + 8 + 1]
#: Two hours that are true.
BOOLS = [SCORES[0] - 6, SCORES[1] - 7]


Field = data_pb2.InputField
#: What the page's examples give, all from the caller.
FLIGHT = data_pb2.Signature(
    inputs=[
        *(
            Field(name=name, kind=Field.KIND_CATEGORICAL, source=Field.SOURCE_REQUEST)
            for name in ("carrier", "route", "origin", "tailnum")
        ),
        *(
            Field(name=name, kind=Field.KIND_NUMERIC, source=Field.SOURCE_REQUEST)
            for name in ("hour", "weekday", "distance")
        ),
    ],
    outputs=["score"],
)


@pytest.fixture(scope="module")
def http(module_suite: Suite) -> Iterator[str]:
    """The address of a gateway with three endpoints: `late`, `ab` and one without a replica."""
    if not PYTHON.exists():
        pytest.skip("the clients are not there: make clients")
    served = Served(module_suite)
    lane = functools.partial(HotLaneProtocol, module_suite.gateway.lane, 5.0)
    module_suite.run(served.start("lane", lane))
    one, two = module_suite.replica(total), module_suite.replica(const(5))
    both = (
        tables.variant("v1", 10_000, of=tables.signature()),
        tables.variant("v2", 0, of=tables.signature()),
    )
    module_suite.push(
        tables.route("late", *both),
        tables.route("ab", *both, overrides={"boss": "v2"}),
        tables.route("empty", tables.variant("v9", 10_000)),
        tables.route("late-arrival", tables.variant("v1", 10_000, of=FLIGHT)),
        v1=one.address,
        v2=two.address,
    )
    yield f"127.0.0.1:{served.ports['lane']}"
    module_suite.run(served.stop())


def look(suite: Suite, program: str, http: str) -> Any:
    """What a program saw."""
    return json.loads(run(suite, PROGRAMS / program, http, suite.grpc_address, suite.key))


def run(suite: Suite, *arguments: str | Path, **environment: str) -> str:
    """What Python, in the environment of the clients, prints."""

    command = [str(each) for each in (PYTHON, *arguments)]
    around = {**os.environ, "PYTHONPATH": "", **environment}

    def work() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=around, capture_output=True, text=True, timeout=120, check=False
        )

    # Not by the event loop: what libuv forks runs into gRPC's handlers of a fork.
    found = suite.run(asyncio.to_thread(work))
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def triton(module_suite: Suite, http: str) -> Any:
    return look(module_suite, "triton.py", http)


@pytest.fixture(scope="module")
def kserve(module_suite: Suite, http: str) -> Any:
    return look(module_suite, "kserve_v2.py", http)


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-other-clients.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
WAYS = pytest.mark.parametrize("way", ["http", "grpc"])


@WAYS
@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_states(request: pytest.FixtureRequest, client: str, way: str) -> None:
    seen = request.getfixturevalue(client)[way]
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["unready"] is False


@WAYS
@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_every_datatype(request: pytest.FixtureRequest, client: str, way: str) -> None:
    seen = request.getfixturevalue(client)[way]["scores"]
    assert seen.pop("BOOL") == BOOLS
    assert len(seen) >= 11
    assert seen == dict.fromkeys(seen, SCORES)


@WAYS
@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_routing_keys(request: pytest.FixtureRequest, client: str, way: str) -> None:
    seen = request.getfixturevalue(client)[way]
    assert (seen["by_parameter"], seen["by_header"]) == ([5.0, 5.0], [5.0, 5.0])


@WAYS
def test_triton_infers(triton: Any, way: str) -> None:
    seen = triton[way]
    assert seen["matrix"] == [118.5, 229.5]
    assert (seen["requested"], seen["id"]) == (SCORES, "r1")
    assert (seen["version"], seen["version_ready"]) == ([5.0, 5.0], True)


def test_triton_over_http_without_raw_tensors_at_once_and_with_asyncio(triton: Any) -> None:
    assert triton["http"]["json"] == SCORES
    assert triton["at_once"] == [SCORES] * 8
    assert triton["asyncio"] == {"http": SCORES, "grpc": SCORES, "live": [True, True]}


@WAYS
def test_triton_reads_metadata(triton: Any, way: str) -> None:
    assert triton[way]["server"]["name"] == "modelyard"
    model = triton[way]["model"]
    assert (model["name"], model["versions"]) == ("late", ["1", "2"])
    assert {each["name"]: each["datatype"] for each in model["inputs"]} == {
        "carrier": "BYTES",
        "origin": "BYTES",
        "distance": "FP64",
        "hour": "FP64",
    }
    (output,) = model["outputs"]
    assert (output["name"], output["datatype"], [int(n) for n in output["shape"]]) == (
        *("late", "FP32"),
        [-1],
    )


REFUSALS = {
    "no model": ("404", "NOT_FOUND", "ENDPOINT_NOT_FOUND"),
    "no version": ("404", "NOT_FOUND", "VERSION_NOT_SERVED"),
    "no key": ("401", "UNAUTHENTICATED", "NO_API_KEY"),
    "wrong shape": ("400", "INVALID_ARGUMENT", "WRONG_SHAPE"),
    "no output": ("400", "INVALID_ARGUMENT", "UNKNOWN_OUTPUT"),
    "metadata": ("404", "NOT_FOUND", "ENDPOINT_NOT_FOUND"),
}


@WAYS
@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_refusals_are_the_clients_exceptions(
    request: pytest.FixtureRequest, client: str, way: str
) -> None:
    seen = request.getfixturevalue(client)[way]["errors"]
    assert {"no model", "no key"} <= seen.keys()
    for case, found in seen.items():
        status, code, reason = REFUSALS[case]
        assert str(found["status"]).removeprefix("StatusCode.") == (
            status if way == "http" else code
        )
        if way == "http":
            assert found["message"].startswith(f"{reason}: ")
        else:
            assert found["message"]


@pytest.mark.parametrize("example", EXAMPLES, ids=["triton", "kserve"])
def test_the_examples_of_the_page(module_suite: Suite, http: str, example: str) -> None:
    found = run(
        *(module_suite, "-c", example),
        MODELYARD_URL=f"http://{http}",
        MODELYARD_API_KEY=module_suite.key,
    )
    assert "1402." in found, "-1 for each of four unknown categories, and the numbers"
