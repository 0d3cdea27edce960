"""What KServe's clients see of a gateway: `python kserve_v2.py HTTP GRPC KEY` prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import datatypes
import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request(model: str, datatype: str = "INT32", *, binary: bool = True, **more: Any) -> Any:
    """Two rows for the endpoint `late`, with the hour as a tensor of some type."""
    columns: dict[str, tuple[str, Any]] = {
        "carrier": ("BYTES", np.array([b"UA", b"AA"], dtype=object)),
        "origin": ("BYTES", np.array([b"JFK", b"LGA"], dtype=object)),
        "distance": ("FP64", np.array([100.5, 200.0])),
        "hour": (datatype, np.array([7, 8]).astype(datatypes.NUMBERS[datatype])),
    }
    made = []
    for name, (kind, values) in columns.items():
        made.append(InferInput(name, list(values.shape), kind))
        made[-1].set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model, made, **more)


def scores(answer: Any) -> Any:
    """The output of an answer."""
    return answer.outputs[0].as_numpy().tolist()


async def rest(client: Any, url: str, key: dict[str, str]) -> dict[str, Any]:
    """Over HTTP."""

    async def infer(data: Any, headers: dict[str, str] = key) -> Any:
        return await client.infer(url, data, model_name=data.model_name, headers=dict(headers))

    async def refusal(data: Any, headers: dict[str, str] = key) -> Any:
        try:
            await infer(data, headers)
        except httpx.HTTPStatusError as error:
            return {
                "status": error.response.status_code,
                "message": error.response.json()["error"],
            }
        return None

    binary = request("late", parameters={"binary_data_output": True})
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "late", headers=key),
        "unready": await client.is_model_ready(url, "empty", headers=key),
        "scores": {kind: scores(await infer(request("late", kind))) for kind in datatypes.NUMBERS},
        "json": scores(await infer(request("late", binary=False))),
        "binary": scores(await infer(binary)),
        "by_parameter": scores(await infer(request("ab", parameters={"routing_key": "boss"}))),
        "by_header": scores(await infer(request("ab"), {**key, "x-routing-key": "boss"})),
        "errors": {
            "no model": await refusal(request("nope")),
            "no key": await refusal(request("late"), {}),
        },
    }


async def rpc(client: Any, key: dict[str, str]) -> dict[str, Any]:
    """Over gRPC."""
    metadata = tuple(key.items())

    async def infer(data: Any, headers: Any = metadata) -> Any:
        return await client.infer(data, headers=headers)

    async def refusal(data: Any, headers: Any = metadata) -> Any:
        try:
            await infer(data, headers)
        except grpc.RpcError as error:
            return {"status": error.code().name, "message": error.details()}
        return None

    return {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("late", headers=metadata),
        "unready": await client.is_model_ready("empty", headers=metadata),
        "scores": {kind: scores(await infer(request("late", kind))) for kind in datatypes.NUMBERS},
        "by_parameter": scores(await infer(request("ab", parameters={"routing_key": "boss"}))),
        "by_header": scores(await infer(request("ab"), (*metadata, ("x-routing-key", "boss")))),
        "errors": {
            "no model": await refusal(request("nope")),
            "no key": await refusal(request("late"), ()),
        },
    }


async def main(http: str, address: str, api_key: str) -> None:
    """Look, and print."""
    key = {"authorization": f"Bearer {api_key}"}
    async with (
        InferenceRESTClient(RESTConfig(protocol="v2")) as one,
        InferenceGRPCClient(address) as two,
    ):
        seen = {"http": await rest(one, f"http://{http}", key), "grpc": await rpc(two, key)}
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
