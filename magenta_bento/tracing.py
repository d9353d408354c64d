"""Traces by OpenTelemetry, when the environment names a collector.

The variables are OpenTelemetry's own: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``)
turns traces on; ``OTEL_SERVICE_NAME`` and ``OTEL_TRACES_SAMPLER`` have their usual meaning.
BentoML makes the span of a request. The spans that are made here are its children: admission,
embed, queue, generate and encode.

Invariant: without a collector nothing is recorded, and no span holds a query, which may hold a
key and a prompt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from magenta_bento import __version__

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE_NAME_VARIABLE = "OTEL_SERVICE_NAME"
# How the names of those spans end that the ASGI instrumentation makes for each chunk.
_CHUNK_SPANS = (" http send", " http receive", " websocket send", " websocket receive")
_URL_ATTRIBUTES = ("http.url", "url.full", "http.target")

tracer = trace.get_tracer("magenta_bento")


class _WithoutChunkSpans(BatchSpanProcessor):
    """Exports all spans but those of single chunks, of which a stream has thousands."""

    def on_end(self, span: ReadableSpan) -> None:
        if not span.name.endswith(_CHUNK_SPANS):
            super().on_end(span)


def configure(
    environ: Mapping[str, str] = os.environ, exporter: SpanExporter | None = None
) -> TracerProvider | None:
    """Has traces sent to the collector that the environment names.

    Args:
      environ: The environment variables.
      exporter: What sends the traces; None for OTLP over HTTP.

    Returns:
      What makes the spans; None if no collector is named.
    """
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    os.environ.setdefault(SERVICE_NAME_VARIABLE, "magenta-bento")
    provider = TracerProvider(resource=Resource.create({SERVICE_VERSION: __version__}))
    provider.add_span_processor(_WithoutChunkSpans(exporter or OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    # BentoML would make the span of each request with another provider, which only a
    # configuration file can set up, and the spans that are made here would have no parent.
    BentoMLContainer.tracer_provider.set(provider)
    return provider


def record(name: str, started_s: float, ended_s: float, **attributes: float | str) -> None:
    """Adds a span that has ended already to the current trace.

    Args:
      name: The name of the span.
      started_s: When it started, by ``time.monotonic``.
      ended_s: When it ended, by the same clock.
      **attributes: The attributes of the span.
    """
    offset_ns = time.time_ns() - time.monotonic_ns()
    span = tracer.start_span(
        name, start_time=int(started_s * 1e9) + offset_ns, attributes=attributes
    )
    span.end(int(ended_s * 1e9) + offset_ns)


def describe_request(request_id: str, path: str) -> None:
    """Adds the request's id to its span, and removes its query, which may hold a key."""
    span = trace.get_current_span()
    span.set_attribute("request.id", request_id)
    for name in _URL_ATTRIBUTES:
        span.set_attribute(name, path)
    span.set_attribute("url.query", "")
