"""`POST /v1/endpoints/{endpoint}:predict`."""

from __future__ import annotations

from gateway.dataplane.core import DataPlane
from gateway.dataplane.predict_json import encode_answer, parse_ask
from gateway.http import Exchange, Reply, require_json
from service_kit.errors import InvalidArgument


class PredictRoute:
    """Answers predictions by entity keys."""

    label = "/v1/{endpoint=endpoints/*}:predict"

    def __init__(self, plane: DataPlane, scope: str, most_bytes: int) -> None:
        self.scope = scope
        self._plane = plane
        self._most_bytes = most_bytes

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer."""
        require_json(exchange)
        if exchange.asgi["query_string"]:
            raise InvalidArgument("UNKNOWN_PARAMETER", "takes no query parameters", field="?")
        body = await exchange.body(self._most_bytes)
        endpoint = exchange.values["endpoint"].removeprefix("endpoints/")
        return Reply(await self.answer(endpoint, body, exchange.began, exchange.time_limit()))

    async def answer(self, endpoint: str, body: bytes, began: float, time_limit: float) -> bytes:
        """The JSON answer to a JSON body; all that a faster way in has to call.

        Raises:
            DomainError: When there is none.
        """
        ask = parse_ask(endpoint, body, began, time_limit)
        answer = await self._plane.predict(ask)
        return encode_answer(answer, return_features=ask.return_features)
