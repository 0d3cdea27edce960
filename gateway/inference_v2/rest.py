"""The protocol's REST routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.dataplane.ask import Ask
from gateway.dataplane.core import DataPlane
from gateway.dataplane.units import take_header
from gateway.http import Exchange, Reply, require_json
from gateway.inference_v2 import answers
from gateway.inference_v2.document import HEAD_LENGTH, Form
from gateway.inference_v2.known import KnownDocuments

SCOPE = "serving:predict"
#: Extensions of the protocol that the gateway speaks.
EXTENSIONS = ("binary_tensor_data",)
_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
INFER_PATH = f"{_MODEL}/infer"


class InferRoute:
    """`POST /v2/models/{name}[/versions/{version}]/infer`."""

    scope = SCOPE

    def __init__(self, plane: DataPlane, label: str, most_bytes: int) -> None:
        self.label = label
        self._plane = plane
        self._known = KnownDocuments()
        self.most_bytes = most_bytes

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer."""
        head_length = exchange.header(HEAD_LENGTH)
        require_json(exchange, *(("application/octet-stream",) if head_length else ()))
        body = await exchange.body(self.most_bytes)
        name, version = exchange.values["name"], exchange.values.get("version", "")
        ask, form = self.read(
            name, body, head_length, exchange.began, exchange.time_limit(), version
        )
        header = self._plane.routing_header(name)
        take_header(ask, exchange.raw_header(header), header)
        return form.reply(await self._plane.predict(ask))

    def read(
        self,
        name: str,
        body: bytes,
        head_length: str,
        began: float,
        limit: float,
        version: str = "",
    ) -> tuple[Ask, Form]:
        """What a body asks for, and how the answer is wanted.

        Args:
            head_length: The header `Inference-Header-Content-Length`, or empty.

        Raises:
            DomainError: When the request is wrong.
        """
        route = self._plane.route(name)
        return self._known.read(route, name, version, body, head_length, began, limit)


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
            "inputs": _metadata(answers.input_metadata(route)),
            "outputs": _metadata(answers.output_metadata(route)),
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


def v2_routes(plane: DataPlane, infer: InferRoute, version: str) -> list[tuple[str, str, Any]]:
    """All routes: HTTP method, path template, handler."""
    routes: list[tuple[str, str, Any]] = [
        ("GET", "/v2", ServerRoute(version)),
        ("POST", INFER_PATH, infer),
    ]
    for base in (_MODEL, _VERSION):
        routes += [
            ("GET", base, ModelRoute(plane, base)),
            ("GET", f"{base}/ready", ModelReadyRoute(plane, f"{base}/ready")),
        ]
    named = f"{_VERSION}/infer"
    return [*routes, ("POST", named, InferRoute(plane, named, infer.most_bytes))]


def _metadata(found: Sequence[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in found]
