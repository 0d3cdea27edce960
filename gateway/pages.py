"""Everything beside the API: health, metrics, API reference and console (FastAPI)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from gateway.access.service import Door, key_of, require_scope
from gateway.console.page import console_page
from gateway.http import REQUEST_ID, ROUTE, problem_reply
from gateway.ops.health import Health
from gateway.problems import encode_problem, problem_headers, status_of
from service_kit import metrics
from service_kit.errors import DomainError, Internal, InvalidArgument, NotFound

METRICS_SCOPE = "ops:read"
#: Nothing from elsewhere, nothing inline that we did not write.
CSP = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HTML_HEADERS = {
    "content-security-policy": CSP,
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Pages:
    """The pages' content.

    Args:
        openapi: The OpenAPI document as JSON.
        reference: The API reference as HTML.
    """

    def __init__(
        self,
        health: Health,
        door: Door,
        openapi: Callable[[], bytes],
        reference: Callable[[], str],
        mlflow_url: str,
    ) -> None:
        self._health = health
        self._door = door
        self._openapi = openapi
        self._reference = reference
        self._mlflow_url = mlflow_url

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.include_router(self._ops())
        app.include_router(self._documents())
        app.include_router(self._console())
        app.mount("/", _nothing)
        app.add_exception_handler(DomainError, _on_error)
        app.add_exception_handler(Exception, _on_fault)
        return app

    def _ops(self) -> APIRouter:
        router = APIRouter()

        @router.get("/healthz")
        async def healthz(request: Request) -> Response:
            return _json(request, {"status": "alive"})

        @router.get("/readyz")
        async def readyz(request: Request) -> Response:
            status = 200 if self._health.serving() else 503
            return _json(request, self._health.report(), status)

        @router.get("/v2/health/live")
        async def live(request: Request) -> Response:
            return _json(request, {"live": True})

        @router.get("/v2/health/ready")
        async def ready(request: Request) -> Response:
            serving = self._health.serving()
            return _json(request, {"ready": serving}, 200 if serving else 503)

        @router.get("/metrics")
        async def show_metrics(request: Request) -> Response:
            headers = request.headers
            key = key_of(headers.get("authorization", ""), headers.get("x-api-key", ""))
            require_scope(await self._door.caller(key), METRICS_SCOPE)
            request.scope[ROUTE] = "/metrics"
            body, content_type = metrics.render()
            return Response(body, headers={"content-type": content_type})

        return router

    def _documents(self) -> APIRouter:
        router = APIRouter()

        @router.get("/openapi.json")
        async def openapi(request: Request) -> Response:
            request.scope[ROUTE] = "/openapi.json"
            return Response(self._openapi(), media_type="application/json")

        @router.get("/docs")
        async def docs(request: Request) -> Response:
            request.scope[ROUTE] = "/docs"
            return HTMLResponse(self._reference(), headers=_HTML_HEADERS)

        return router

    def _console(self) -> APIRouter:
        router = APIRouter()
        page, script, style = console_page(self._mlflow_url)

        @router.get("/")
        async def console(request: Request) -> Response:
            request.scope[ROUTE] = "/"
            return HTMLResponse(page, headers=_HTML_HEADERS)

        @router.get("/console.js")
        async def console_script() -> Response:
            return Response(script, media_type="text/javascript", headers=_HTML_HEADERS)

        @router.get("/console.css")
        async def console_style() -> Response:
            return Response(style, media_type="text/css", headers=_HTML_HEADERS)

        return router


def _json(request: Request, document: Any, status: int = 200) -> Response:
    request.scope[ROUTE] = request.url.path
    return Response(orjson.dumps(document), status, media_type="application/json")


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    path = scope["path"].rstrip("/")
    if scope["type"] != "http":
        return
    error: DomainError = NotFound("ROUTE_NOT_FOUND", "there is no such route")
    if path in _PATHS:
        error = InvalidArgument("METHOD_NOT_ALLOWED", "allowed here: GET", allow="GET")
    await problem_reply(error, scope[REQUEST_ID]).send(send)


_PATHS = frozenset(
    (
        *("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", ""),
        *("/console.js", "/console.css", "/v2/health/live", "/v2/health/ready"),
    )
)


async def _on_error(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, DomainError) else Internal("INTERNAL", "internal error")
    headers = {name.decode(): value.decode() for name, value in problem_headers(known)}
    body = encode_problem(known, request_id=request.scope.get(REQUEST_ID, ""))
    return Response(body, status_of(known), headers)


async def _on_fault(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return await _on_error(request, Internal("INTERNAL", "internal error"))
