"""Which requests are refused before their body is read, the cheapest check first.

    origin -> declared size -> key -> rate -> concurrent requests -> the route

Invariant: for a request that is refused here no byte of a body was read, nothing was decoded or
queued and no slot was taken, and a WebSocket that is refused was never accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from magenta_bento import tracing
from magenta_bento.access.budget import AudioBudget
from magenta_bento.access.clients import KEY_HEADER, client_of, presented_key
from magenta_bento.access.keys import KeyRing
from magenta_bento.config import Settings
from magenta_bento.errors import (
    OriginNotAllowed,
    PayloadTooLarge,
    ServiceError,
    Unauthorized,
    shorten,
)
from magenta_bento.runtime import Runtime
from magenta_bento.web.bodies import OVERHEAD_BYTES
from magenta_bento.web.context import RequestContext
from magenta_bento.web.request_status import Progress
from magenta_bento.web.responses import error_response


class AdmissionMiddleware:
    """ASGI middleware: checks origin, size, key and limits before a request reaches its route.

    Args:
      app: The application that serves the requests that pass.
      runtime: Returns the server's runtime, which is made after the middleware.
      progress: Tracks the requests that pass.
    """

    def __init__(self, app: ASGIApp, runtime: Callable[[], Runtime], progress: Progress) -> None:
        self.app = app
        self._runtime = runtime
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.from_scope(scope)
        runtime = self._runtime()
        with ExitStack() as stack:
            try:
                with tracing.tracer.start_as_current_span("admission"):
                    await _admit(scope, context, runtime)
                if context.route.counted:
                    stack.enter_context(runtime.access.concurrency.acquire(context.client.id))
                    stack.enter_context(self._progress.track(context))
            except ServiceError as error:
                await runtime.access.throttle.wait()
                # Starlette sends it to a WebSocket too, in place of the upgrade.
                await error_response(error)(scope, receive, send)
                return
            await self.app(scope, receive, send)


async def _admit(scope: Scope, context: RequestContext, runtime: Runtime) -> None:
    """Finds out which client sends a request, and what it may still ask for.

    Raises:
      ServiceError: The client may not send it.
    """
    settings, access = runtime.settings, runtime.access
    context.client = client_of(scope, settings.trusted_proxies)
    try:
        _check_origin(scope, settings)
        _check_size(scope, settings)
        if access.keys is not None and not context.route.is_open(settings):
            context.client = context.client.with_key(await _key_name(scope, access.keys))
    except ServiceError as error:
        runtime.metrics.refused.labels(error.type).inc()
        raise
    context.budget = AudioBudget(access.limits, context.client.id)
    if context.route.counted:
        context.headers |= await access.limits.request(context.client.id)


def _check_origin(scope: Scope, settings: Settings) -> None:
    """Browsers send WebSockets and forms to any host, without asking it first."""
    headers = Headers(scope=scope)
    origin = headers.get("origin", "").lower()
    if not origin or scope.get("method") in ("GET", "HEAD", "OPTIONS"):
        return
    is_own = origin.partition("://")[2] == headers.get("host", "").lower()
    allowed = (*settings.cors_origins, settings.public_url.lower().rstrip("/"))
    if not is_own and "*" not in allowed and origin not in allowed:
        raise OriginNotAllowed(
            f"pages of {shorten(origin)} may not call this server: CORS_ORIGINS does not name them"
        )


def _check_size(scope: Scope, settings: Settings) -> None:
    declared = Headers(scope=scope).get("content-length", "")
    max_bytes = settings.max_file_size_bytes + OVERHEAD_BYTES
    if declared.isdigit() and int(declared) > max_bytes:
        raise PayloadTooLarge(
            f"uploads may have {settings.max_file_size_mb:g} MB together, fields 1 MB;"
            f" the body has {int(declared) / 1e6:g} MB"
        )


async def _key_name(scope: Scope, keys: KeyRing) -> str:
    presented = presented_key(scope)
    name = None if presented is None else await keys.name_of(presented)
    if name is None:
        problem = "an API key is needed" if presented is None else "the API key is not known"
        raise Unauthorized(f"{problem}: send it as {KEY_HEADER} or as a bearer token")
    return name
