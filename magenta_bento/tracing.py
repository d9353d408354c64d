"""Traces, by OpenTelemetry, for those who name a collector.

The variables are OpenTelemetry's own: ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``)
turns traces on, ``OTEL_SERVICE_NAME`` and ``OTEL_TRACES_SAMPLER`` mean what they mean everywhere.
BentoML makes the span of a request; ours are its children: admission, embed, queue, generate
and encode.

Invariant: without a collector nothing is recorded, and no span holds a query, which may hold a
key and a prompt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

# bentoml: no public call sets the tracer provider of the spans that it makes.
from bentoml._internal.configuration.containers import BentoMLContainer
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from magenta_bento import __version__

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE_NAME_VARIABLE = "OTEL_SERVICE_NAME"
# The ASGI instrumentation makes one for every chunk of a stream.
_CHUNK_SPANS = (" http send", " http receive", " websocket send", " websocket receive")
_URL_ATTRIBUTES = ("http.url", "url.full", "http.target")

tracer = trace.get_tracer("magenta_bento")


class _WithoutChunks(BatchSpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        if not span.name.endswith(_CHUNK_SPANS):
            super().on_end(span)


def configure(
    environ: Mapping[str, str] = os.environ, exporter: SpanExporter | None = None
) -> TracerProvider | None:
    """Sends traces where the environment says; None if it says nothing.

    Args:
      environ: Where the variables are.
      exporter: What to send them with, in place of OTLP over HTTP.
    """
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    os.environ.setdefault(SERVICE_NAME_VARIABLE, "magenta-bento")
    provider = TracerProvider(resource=Resource.create({SERVICE_VERSION: __version__}))
    provider.add_span_processor(_WithoutChunks(exporter or OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    # bentoml: it makes the span of each request with a provider of its own, from a configuration
    # file that can't be given in the environment; ours would be children of nothing.
    BentoMLContainer.tracer_provider.set(provider)
    return provider


def record(name: str, began: float, ended: float, **attributes: float | str) -> None:
    """A span of the current trace that is over already.

    Args:
      name: What was done.
      began: When, by ``time.monotonic``.
      ended: Likewise.
      **attributes: Of the span.
    """
    offset_ns = time.time_ns() - time.monotonic_ns()
    span = tracer.start_span(name, start_time=int(began * 1e9) + offset_ns, attributes=attributes)
    span.end(int(ended * 1e9) + offset_ns)


def describe_request(request_id: str, path: str) -> None:
    """Puts the request's id on its span, and takes its query off, which may hold a key."""
    span = trace.get_current_span()
    span.set_attribute("request.id", request_id)
    for name in _URL_ATTRIBUTES:
        span.set_attribute(name, path)
    span.set_attribute("url.query", "")
