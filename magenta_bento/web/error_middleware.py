"""The last touch on every answer: errors that others worded get our one shape.

Routing's 404 and 405, probes' 503 and whatever a library answers as plain text pass here.

Invariant: what leaves with a status of 400 or more is JSON with ``error`` and ``type``, and
every request has an answer, even if what should answer it raised.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magenta_bento.errors import ServiceError
from magenta_bento.web.headers import ALLOW
from magenta_bento.web.response_models import Error
from magenta_bento.web.responses import error_response, json_response
from magenta_bento.web.routes import route_of

log = logging.getLogger("magenta_bento")

_PHRASES = {status.value: status.phrase.lower() for status in HTTPStatus}


class ErrorShapeMiddleware:
    """ASGI middleware: gives the errors of BentoML and Starlette the shape of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = replaced = False

        async def reshape(message: Message) -> None:
            nonlocal started, replaced
            started = True
            if message["type"] == "http.response.start" and _is_foreign(message):
                replaced = True
                await _send_instead(scope, message, receive, send)
            elif not replaced:
                await send(message)

        try:
            await self.app(scope, receive, reshape)
        except Exception:
            if started:
                raise
            # bentoml: it would wait for an answer until its timeout.
            log.exception("an unexpected error at %s", scope["path"])
            error = ServiceError("an unexpected error; the server's log has it")
            await error_response(error)(scope, receive, send)


def _is_foreign(start: Message) -> bool:
    headers = MutableHeaders(raw=list(start["headers"]))
    is_json = headers.get("content-type", "").startswith("application/json")
    return start["status"] >= HTTPStatus.BAD_REQUEST and not is_json


async def _send_instead(scope: Scope, start: Message, receive: Receive, send: Send) -> None:
    phrase = _PHRASES.get(start["status"], "error")  # 499, for one, is no standard's
    message = f"{scope['method']} {scope['path']}: {phrase}"
    error = Error(error=message, type=phrase.replace(" ", "_"), detail=[])
    headers = _kept(start)
    methods = route_of(scope["path"]).methods
    if start["status"] == HTTPStatus.METHOD_NOT_ALLOWED and methods:
        # bentoml: its router and that of our pages each know only their own methods of a path.
        headers[ALLOW.lower()] = ", ".join(methods)
    response = json_response(error, start["status"], headers)
    await response(scope, receive, send)


def _kept(start: Message) -> dict[str, str]:
    """Headers that still hold for another body."""
    headers = dict(MutableHeaders(raw=list(start["headers"])))
    return {k: v for k, v in headers.items() if k not in ("content-length", "content-type")}
