"""`POST /v1/endpoints/{endpoint}:predict`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dataplane.ask import Answer, Ask
from gateway.dataplane.core import DataPlane
from gateway.dataplane.predict_json import encode_answer, lone_template, parse_ask
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.units import take_header
from gateway.http import Exchange, Reply, require_json
from service_kit.errors import InvalidArgument


@dataclass(slots=True)
class PredictForm:
    """How an answer is wanted."""

    return_features: bool

    @property
    def plain(self) -> bool:
        """Whether nothing is wanted otherwise than usual."""
        return not self.return_features

    def template(self, route: Route, variant: Variant) -> bytes:
        """A plain answer for one row, to be filled with its id and its outputs."""
        who = variant.name, variant.model_version, variant.plan.outputs
        return lone_template(route.endpoint, route.generation, *who)

    @property
    def block(self) -> None:
        """Rows with names are no matrix."""

    def reply(self, answer: Answer) -> Reply:
        """The answer as it goes out."""
        return Reply(encode_answer(answer, return_features=self.return_features))


class PredictRoute:
    """Answers predictions by entity keys."""

    label = "/v1/{endpoint=endpoints/*}:predict"

    def __init__(self, plane: DataPlane, scope: str, most_bytes: int) -> None:
        self.scope = scope
        self.most_bytes = most_bytes
        self._plane = plane

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer."""
        require_json(exchange)
        if exchange.asgi["query_string"]:
            raise InvalidArgument("UNKNOWN_PARAMETER", "takes no query parameters", field="?")
        body = await exchange.body(self.most_bytes)
        endpoint = exchange.values["endpoint"].removeprefix("endpoints/")
        ask, form = self.read(endpoint, body, "", exchange.began, exchange.time_limit())
        name = self._plane.routing_header(endpoint)
        take_header(ask, exchange.raw_header(name), name)
        return form.reply(await self._plane.predict(ask))

    def read(
        self,
        endpoint: str,
        body: bytes,
        head_length: str,  # noqa: ARG002 - raw tensors are the other protocol's
        began: float,
        limit: float,
    ) -> tuple[Ask, PredictForm]:
        """What a body asks for, and how the answer is wanted.

        Raises:
            InvalidArgument: Naming the field at fault.
        """
        ask = parse_ask(endpoint, body, began, limit)
        return ask, PredictForm(ask.return_features)
