"""Traces (OpenTelemetry), carried between processes as W3C ``traceparent``."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service_kit.settings import ServiceSettings

_propagator = TraceContextTextMapPropagator()
_lock = threading.Lock()
_provider: TracerProvider | None = None


def configure(settings: ServiceSettings) -> TracerProvider:
    """Set up the tracing of this process; later calls change nothing.

    Without ``otlp_endpoint`` nothing is exported and spans carry their ids only, for the logs.
    """
    global _provider
    with _lock:
        if _provider is None:
            exporting = bool(settings.otlp_endpoint)
            _provider = TracerProvider(
                resource=Resource.create({"service.name": f"modelyard-{settings.service}"}),
                sampler=ParentBased(ALWAYS_ON) if exporting else ALWAYS_OFF,
                shutdown_on_exit=False,
            )
            if exporting:
                _provider.add_span_processor(_otlp_processor(settings.otlp_endpoint))
            trace.set_tracer_provider(_provider)
        return _provider


def shutdown() -> None:
    """Send off what is left and stop exporting; call once, at the end of the process."""
    if _provider is not None:
        _provider.shutdown()


def tracer(name: str) -> trace.Tracer:
    """The tracer of a module."""
    return trace.get_tracer(name)


def inject_headers() -> dict[str, str]:
    """Headers that carry the present span to another process; empty outside a span."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers


def extract(headers: Mapping[str, str]) -> Context:
    """The context that :func:`inject_headers` wrote, as parent for a new span."""
    return _propagator.extract(headers)


def traceparent() -> str:
    """The present span as one string, for event headers; empty outside a span."""
    return inject_headers().get("traceparent", "")


def trace_ids() -> tuple[str, str]:
    """Hexadecimal trace id and span id of the present span; empty outside a span."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return "", ""
    return trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)


def _otlp_processor(endpoint: str) -> SpanProcessor:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(
        OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    )
