"""Writes for each request a line in the access log, its metrics and its spans.

Its answer gets the request's id and the headers that protect browsers.

Invariant: one access line a request, however it ends, and none holds a key, a query or, unless
the operator wants it, a prompt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magenta_bento import logs, tracing
from magenta_bento.engine.stream import Phase
from magenta_bento.errors import ServiceError
from magenta_bento.runtime import Runtime
from magenta_bento.web.context import RequestContext
from magenta_bento.web.headers import CONTENT_SECURITY_POLICY, PROTECTION, REQUEST_ID
from magenta_bento.web.responses import STATUS_CLIENT_CLOSED_REQUEST
from magenta_bento.web.routes import KeyRequirement, route_of

log = logging.getLogger("magenta_bento.access")

SWITCHING_PROTOCOLS = 101
MAX_PATH_CHARS = 200
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
_LINE_START = ("method", "route", "path", "status")
_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")


class AccessLogMiddleware:
    """ASGI middleware: makes the context of each request, and writes its access line.

    Args:
      app: The application whose requests are recorded.
      runtime: Returns the server's runtime, which is made after the middleware.
    """

    def __init__(self, app: ASGIApp, runtime: Callable[[], Runtime]) -> None:
        self.app = app
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        runtime = self._runtime()
        frame_ancestors = _frame_ancestors(runtime.settings.cors_origins)
        context = RequestContext.create(scope, route_of(scope["path"]))
        id_token = logs.request_id.set(context.id)
        tracing.describe_request(context.id, scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] in _STARTS:
                context.status = message.get("status", SWITCHING_PROTOCOLS)
                message.setdefault("headers", [])
                headers = MutableHeaders(raw=list(message["headers"]))
                policies = [headers.get(CONTENT_SECURITY_POLICY), frame_ancestors]
                headers[CONTENT_SECURITY_POLICY] = "; ".join(filter(None, policies))
                headers.update({**PROTECTION, REQUEST_ID.name: context.id})
                for name, value in context.headers.items():
                    # An error response that names the limit it exceeded keeps its own headers.
                    headers.setdefault(name, value)
                message["headers"] = headers.raw
            await send(message)

        open_requests = runtime.metrics.open_requests.labels(context.route.label)
        open_requests.inc()
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            context.broken_off = error.type if isinstance(error, ServiceError) else repr(error)
            raise
        finally:
            open_requests.dec()
            _trace(context)
            _count(context, scope, runtime)
            _write(context, scope, with_prompt=runtime.settings.log_prompts)
            logs.request_id.reset(id_token)


def _frame_ancestors(origins: tuple[str, ...]) -> str:
    """Origins that may call the server may also show it in a frame, but "null" is no host."""
    return " ".join(("frame-ancestors 'self'", *(o for o in origins if o != "null")))


def _count(context: RequestContext, scope: Scope, runtime: Runtime) -> None:
    metrics = runtime.metrics
    method = scope.get("method", "GET")
    metrics.requests.labels(
        context.route.label,
        method if method in METHODS else "other",
        str(context.status or STATUS_CLIENT_CLOSED_REQUEST),
        context.client.key,
    ).inc()
    metrics.request_seconds.labels(context.route.label).observe(time.monotonic() - context.started)
    if context.audio_s:
        metrics.audio_seconds.labels(context.client.key).inc(context.audio_s)


def _trace(context: RequestContext) -> None:
    """Records as spans the parts of a request that the engine timed."""
    timing = context.stream.timing if context.stream else None
    if timing and timing.playing:
        tracing.record("queue", timing.admitted, timing.playing)
        ended = timing.ended or time.monotonic()
        tracing.record("generate", timing.playing, ended, audio_seconds=context.audio_s)


def _write(context: RequestContext, scope: Scope, *, with_prompt: bool) -> None:
    is_page_or_probe = context.route.api_key is not KeyRequirement.ALWAYS
    fields: dict[str, Any] = {
        "method": scope.get("method", "WEBSOCKET"),
        "route": context.route.label,
        "path": quote(scope["path"])[:MAX_PATH_CHARS],
        "status": context.status or STATUS_CLIENT_CLOSED_REQUEST,
        "seconds": round(time.monotonic() - context.started, 3),
        "key": context.client.key,
        "address": context.client.address,
    }
    if stream := context.stream:
        fields |= {
            # A stream whose reader has left ends at the engine's next step, after this line.
            "outcome": (stream.phase if stream.phase.ended else Phase.CANCELLED).value,
            "queue_seconds": round(stream.timing.waited_s, 3),
            "generation_seconds": round(stream.timing.in_slot_s, 3),
            "audio_seconds": round(context.audio_s, 2),
            "rtf": round(context.audio_s / max(stream.timing.in_slot_s, 1e-3), 2),
        }
    if context.broken_off:
        fields["broken_off"] = context.broken_off
    if with_prompt and context.prompt:
        fields["prompt"] = context.prompt
    # Method, path and status begin the line. The route, which the path implies, is for JSON only.
    pairs = {name: value for name, value in fields.items() if name not in _LINE_START}
    text = " ".join(f"{name}={value!r}" for name, value in pairs.items() if value != "")
    line = f"{fields['method']} {fields['path']} {fields['status']} {text} id={context.id}"
    log.log(logging.DEBUG if is_page_or_probe else logging.INFO, line, extra=fields)
