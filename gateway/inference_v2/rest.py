"""The protocol's REST routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.dataplane.core import DataPlane
from gateway.http import Exchange, Reply, require_json
from gateway.inference_v2 import tensors
from gateway.inference_v2.tensors import Tensor
from gateway.transcoder.requests import parse_json
from service_kit.errors import InvalidArgument, Unimplemented

SCOPE = "serving:predict"
#: Extensions of the protocol that the gateway speaks.
EXTENSIONS: tuple[str, ...] = ()
_BINARY = "binary_data_size"


class InferRoute:
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    scope = SCOPE

    def __init__(self, plane: DataPlane, label: str, most_bytes: int) -> None:
        self.label = label
        self._plane = plane
        self._most_bytes = most_bytes

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer."""
        if exchange.header(b"inference-header-content-length"):
            raise Unimplemented("BINARY_TENSORS", "binary tensors are not offered over REST yet")
        require_json(exchange)
        body = await exchange.body(self._most_bytes)
        return Reply(
            await self.answer(
                exchange.values["name"],
                exchange.values.get("version", ""),
                body,
                exchange.began,
                exchange.time_limit(),
            )
        )

    async def answer(
        self, name: str, version: str, body: bytes, began: float, limit: float
    ) -> bytes:
        """The JSON answer to a JSON body; all that a faster way in has to call.

        Raises:
            DomainError: When there is none.
        """
        document = _object(parse_json(body), "body")
        route = self._plane.route(name)
        inputs = [
            _tensor(each, f"inputs[{index}]")
            for index, each in enumerate(_list(document.get("inputs"), "inputs"))
        ]
        wanted = [
            _text(_object(each, f"outputs[{index}]").get("name"), f"outputs[{index}].name")
            for index, each in enumerate(_list(document.get("outputs") or [], "outputs"))
        ]
        request_id = _text(document.get("id") or "", "id")
        given = _object(document.get("parameters") or {}, "parameters")
        ask = tensors.make_ask(route, name, version, inputs, began, limit)
        ask.event_times_us = tensors.event_times(given.get(tensors.EVENT_TIME), len(ask.instances))
        answer = await self._plane.predict(ask)
        outputs = tensors.requested(tensors.output_tensors(answer), wanted)
        reply: dict[str, Any] = {
            "model_name": name,
            "model_version": tensors.served_version(answer),
            "parameters": tensors.parameters(answer),
            "outputs": [
                {"name": o.name, "datatype": o.datatype, "shape": o.shape, "data": o.data}
                for o in outputs
            ],
        }
        if request_id:
            reply["id"] = request_id
        return orjson.dumps(reply)


class ModelRoute:
    """`GET /v2/models/{name}[/versions/{version}]`."""

    scope = SCOPE

    def __init__(self, plane: DataPlane, label: str) -> None:
        self.label = label
        self._plane = plane

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer."""
        name = exchange.values["name"]
        route = self._plane.route(name)
        if version := exchange.values.get("version", ""):
            route.with_version(version)
        document = {
            "name": name,
            "versions": [variant.version for variant in route.variants],
            "platform": "modelyard",
            "inputs": _metadata(tensors.input_metadata(route)),
            "outputs": _metadata(tensors.output_metadata(route)),
        }
        return Reply(orjson.dumps(document))


class ModelReadyRoute:
    """`GET /v2/models/{name}[/versions/{version}]/ready`."""

    scope = SCOPE

    def __init__(self, plane: DataPlane, label: str) -> None:
        self.label = label
        self._plane = plane

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer 200 when it is ready and 503 when it is not."""
        name = exchange.values["name"]
        ready = self._plane.ready(name, exchange.values.get("version", ""))
        body = orjson.dumps({"name": name, "ready": ready})
        return Reply(body, 200 if ready else 503)


class ServerRoute:
    """`GET /v2`."""

    scope = SCOPE
    label = "/v2"

    def __init__(self, version: str) -> None:
        self._document = {
            "name": "modelyard",
            "version": version,
            "extensions": list(EXTENSIONS),
        }

    async def handle(self, exchange: Exchange) -> Reply:  # noqa: ARG002
        """Answer."""
        return Reply(orjson.dumps(self._document))


def v2_routes(plane: DataPlane, version: str, most_bytes: int) -> list[tuple[str, str, Any]]:
    """All routes: HTTP method, path template, handler."""
    routes: list[tuple[str, str, Any]] = [("GET", "/v2", ServerRoute(version))]
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            ("GET", base, ModelRoute(plane, base)),
            ("GET", f"{base}/ready", ModelReadyRoute(plane, f"{base}/ready")),
            ("POST", f"{base}/infer", InferRoute(plane, f"{base}/infer", most_bytes)),
        ]
    return routes


def _metadata(found: Sequence[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in found]


def _tensor(value: Any, path: str) -> Tensor:
    each = _object(value, path)
    if _BINARY in _object(each.get("parameters") or {}, f"{path}.parameters"):
        raise Unimplemented("BINARY_TENSORS", "binary tensors are not offered over REST yet")
    shape = _list(each.get("shape"), f"{path}.shape")
    if not all(type(length) is int and 0 <= length < 2**31 for length in shape):
        raise InvalidArgument("WRONG_TYPE", "must be whole numbers", field=f"{path}.shape")
    data = _list(each.get("data"), f"{path}.data")
    if data and type(data[0]) is list:
        data = _flat(data, f"{path}.data")
    return Tensor(
        _text(each.get("name"), f"{path}.name"),
        _text(each.get("datatype"), f"{path}.datatype"),
        shape,
        data,
    )


def _flat(rows: list[Any], path: str) -> list[Any]:
    width = len(rows[0])
    if not all(type(row) is list and len(row) == width for row in rows):
        raise InvalidArgument("WRONG_SHAPE", "must be rows of one length", field=path)
    return [value for row in rows for value in row]


def _object(value: Any, path: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise InvalidArgument("WRONG_TYPE", "must be an object", field=path)
    return value


def _list(value: Any, path: str) -> list[Any]:
    if type(value) is not list:
        raise InvalidArgument("WRONG_TYPE", "must be a list", field=path)
    return value


def _text(value: Any, path: str) -> str:
    if type(value) is not str:
        raise InvalidArgument("WRONG_TYPE", "must be a string", field=path)
    return value
