"""The API application: finds the route, checks who asks and what they may do, lets it answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.access.service import Door, key_of, require_scope
from gateway.http import BEGAN, ROUTE, Exchange, Handler, Receive, Scope, Send, header
from gateway.settings import GatewaySettings
from gateway.transcoder.contracts import Method
from gateway.transcoder.handler import TranscodedRoute
from gateway.transcoder.paths import parse_template
from gateway.transcoder.table import RouteTable
from gateway.upstreams import Upstreams

#: Extra routes: HTTP method, path template, handler.
Extra = tuple[str, str, Handler]


def build_table(
    methods: Sequence[Method],
    local: Mapping[str, Handler],
    extra: Sequence[Extra],
    upstreams: Upstreams,
    settings: GatewaySettings,
) -> RouteTable[Handler]:
    """The routes of all published methods.

    Args:
        local: Methods (`/package.Service/Method`) that the gateway answers itself.
        extra: Routes that no contract's HTTP rule declares.
    """
    table: RouteTable[Handler] = RouteTable()
    for method in methods:
        for binding in method.bindings:
            handler = local.get(method.full_name) or TranscodedRoute(
                method, binding, upstreams, settings
            )
            table.add(binding.http_method, binding.template, handler)
    for http_method, path, handler in extra:
        table.add(http_method, parse_template(path), handler)
    return table


class Api:
    """ASGI application of `/v1` and `/v2`."""

    def __init__(self, table: RouteTable[Handler], door: Door, settings: GatewaySettings) -> None:
        self._table = table
        self._door = door
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; raises DomainError, which the front makes a problem of."""
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        handler, values = self._table.match(scope["method"], path)
        scope[ROUTE] = handler.label
        key = key_of(header(scope, b"authorization"), header(scope, b"x-api-key"))
        caller = await self._door.caller(key)
        require_scope(caller, handler.scope)
        exchange = Exchange(
            *(scope, receive, values, caller, scope[BEGAN]),
            body_timeout=self._settings.body_timeout_s,
        )
        reply = await handler.handle(exchange)
        await reply.send(send)
