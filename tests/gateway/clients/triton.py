"""What `tritonclient` sees of a gateway: `python triton.py HTTP GRPC KEY` prints JSON.

The client writes into the headers that it is given, so each call gets some of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import datatypes
import ml_dtypes
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

NUMBERS = {**datatypes.NUMBERS, "BF16": ml_dtypes.bfloat16}


def inputs(module: Any, datatype: str = "INT32", **options: Any) -> list[Any]:
    """Two rows for the endpoint `late`, with the hour as a tensor of some type."""
    columns: dict[str, tuple[str, Any]] = {
        "carrier": ("BYTES", np.array(["UA", "AA"], dtype=object)),
        "origin": ("BYTES", np.array(["JFK", "LGA"], dtype=object).reshape(2, 1)),
        "distance": ("FP64", np.array([100.5, 200.0])),
        "hour": (datatype, np.array([7, 8]).astype(NUMBERS[datatype])),
    }
    made = []
    for name, (kind, values) in columns.items():
        made.append(module.InferInput(name, list(values.shape), kind))
        made[-1].set_data_from_numpy(values, **options)
    return made


def matrix(module: Any, shape: tuple[int, int] = (2, 5)) -> list[Any]:
    """The matrix as the model of `late` sees it."""
    values = np.array([10, 1.5, 100, 7, 0, 20, 2.5, 200, 8, -1], np.float32)
    made = module.InferInput("features", list(shape), "FP32")
    made.set_data_from_numpy(values[: shape[0] * shape[1]].reshape(shape))
    return [made]


def scores(result: Any) -> Any:
    """The output of an answer."""
    return result.as_numpy("late").tolist()


def refusal(call: Any, *given: Any, **named: Any) -> Any:
    """The client's exception, as far as a caller looks at it."""
    try:
        call(*given, **named)
    except InferenceServerException as error:
        return {"status": str(error.status()), "message": str(error.message())}
    return None


def common(client: Any, module: Any, key: dict[str, str]) -> dict[str, Any]:
    """What both kinds of client do in the same way."""
    seen: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("late", headers={**key}),
        "version_ready": client.is_model_ready("late", "2", headers={**key}),
        "scores": {},
    }
    for datatype in NUMBERS:
        given = inputs(module, datatype)
        seen["scores"][datatype] = scores(client.infer("late", given, headers={**key}))
    seen["matrix"] = scores(client.infer("late", matrix(module), headers={**key}))
    seen["version"] = scores(client.infer("late", inputs(module), "2", headers={**key}))
    answer = client.infer("late", inputs(module), request_id="r1", headers={**key})
    told = answer.get_response()
    seen["id"] = told["id"] if isinstance(told, dict) else told.id
    wanted = [module.InferRequestedOutput("late")]
    seen["requested"] = scores(
        client.infer("late", inputs(module), outputs=wanted, headers={**key})
    )
    seen["by_parameter"] = scores(
        client.infer("ab", inputs(module), headers={**key}, parameters={"routing_key": "boss"})
    )
    seen["by_header"] = scores(
        client.infer("ab", inputs(module), headers={**key, "x-routing-key": "boss"})
    )
    seen["errors"] = {
        "no model": refusal(client.infer, "nope", inputs(module), headers={**key}),
        "no version": refusal(client.infer, "late", inputs(module), "7", headers={**key}),
        "no key": refusal(client.infer, "late", inputs(module)),
        "wrong shape": refusal(client.infer, "late", matrix(module, (5, 2)), headers={**key}),
        "no output": refusal(
            client.infer,
            "late",
            inputs(module),
            outputs=[module.InferRequestedOutput("x")],
            headers={**key},
        ),
        "metadata": refusal(client.get_model_metadata, "nope", headers={**key}),
    }
    return seen


def http_alone(client: Any, key: dict[str, str]) -> dict[str, Any]:
    """What there is over HTTP alone: tensors in JSON."""
    plain = inputs(over_http, binary_data=False)
    wanted = [over_http.InferRequestedOutput("late", binary_data=False)]
    return {
        "unready": client.is_model_ready("empty", headers={**key}),
        "json": scores(client.infer("late", plain, outputs=wanted, headers={**key})),
        "server": client.get_server_metadata(headers={**key}),
        "model": client.get_model_metadata("late", headers={**key}),
    }


def at_once(http: str, key: dict[str, str]) -> list[Any]:
    """Requests that are under way together.

    Closing a client that has had some may raise gevent's `LoopExit`, so this one is left open.
    """
    client = over_http.InferenceServerClient(http, concurrency=4)
    under_way = [client.async_infer("late", inputs(over_http), headers={**key}) for _ in range(8)]
    return [scores(each.get_result()) for each in under_way]


def grpc_alone(client: Any, key: dict[str, str]) -> dict[str, Any]:
    """What there is over gRPC alone."""
    return {
        "unready": client.is_model_ready("empty", headers={**key}),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata("late", headers={**key}, as_json=True),
    }


async def in_asyncio(http: str, rpc: str, key: dict[str, str]) -> dict[str, Any]:
    """The same clients for asyncio."""
    async with (
        over_http_aio.InferenceServerClient(http) as one,
        over_grpc_aio.InferenceServerClient(rpc) as two,
    ):
        return {
            "http": scores(await one.infer("late", inputs(over_http), headers={**key})),
            "grpc": scores(await two.infer("late", inputs(over_grpc), headers={**key})),
            "live": [await one.is_server_live(), await two.is_server_live()],
        }


def main(http: str, rpc: str, api_key: str) -> None:
    """Look, and print."""
    key = {"authorization": f"Bearer {api_key}"}
    with (
        over_http.InferenceServerClient(http) as one,
        over_grpc.InferenceServerClient(rpc) as two,
    ):
        seen = {
            "http": common(one, over_http, key) | http_alone(one, key),
            "grpc": common(two, over_grpc, key) | grpc_alone(two, key),
            "at_once": at_once(http, key),
            "asyncio": asyncio.run(in_asyncio(http, rpc, key)),
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
