"""How an API method is published: its body parsed, its errors answered, its client watched.

    @endpoint(routes.GENERATE_TEXT)
    async def generate_text(self, request: TextRequest, context: RequestContext) -> Response: ...

Invariant: nothing that a method raises leaves as anything but the one error shape, and a
method can have its work cancelled when the client leaves (:meth:`RequestContext.on_disconnect`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Concatenate, TypeVar

import bentoml

# bentoml: its timeout has no setting that switches it off.
from bentoml._internal.server.http import traffic
from bentoml.validators import ContentType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from magenta_bento.audio.formats import AudioFormat, StreamFormat
from magenta_bento.errors import ServiceError
from magenta_bento.web.base_request import ApiRequest
from magenta_bento.web.context import RequestContext
from magenta_bento.web.request_parsing import parsed
from magenta_bento.web.responses import STATUS_CLIENT_CLOSED_REQUEST, error_response
from magenta_bento.web.routes import Route

log = logging.getLogger("magenta_bento")

R = TypeVar("R", bound=ApiRequest)
Method = Callable[Concatenate[Any, R, RequestContext, ...], Awaitable[Response]]


def endpoint(route: Route) -> Callable[[Method[Any]], Any]:
    """Publishes a method as a BentoML API.

    Args:
      route: Its path, the type of its body, what it answers and what it does.

    Raises:
      ValueError: The route has no body.
    """
    model = route.request
    if model is None:
        raise ValueError(f"{route.path} has no body")

    def publish(method: Method[Any]) -> Any:
        async def serve(self: Any, request: Request) -> Any:
            try:
                async with parsed(request, model, self.settings) as body:
                    return await _cancelled_on_disconnect(method, self, body, request)
            except ServiceError as error:
                return error_response(error)
            except ClientDisconnect:
                return Response(status_code=STATUS_CLIENT_CLOSED_REQUEST)
            except Exception:
                log.exception("an unexpected error in %s", route.path)
                return error_response(ServiceError("an unexpected error; the server's log has it"))

        serve.__name__ = method.__name__
        serve.__qualname__ = method.__qualname__
        serve.__module__ = method.__module__
        serve.__doc__ = route.summary
        serve.__annotations__ = {"request": Request, "return": _annotation(route)}
        api = bentoml.api(route=route.path, input_spec=model)(serve)
        # bentoml: it tells a stream from the annotation only where a method is a generator.
        api.is_stream = route.makes_stream
        return api

    return publish


def _annotation(route: Route) -> Any:
    """What BentoML publishes as the answer of a route."""
    if route.makes_stream:
        return Annotated[bytes, ContentType(StreamFormat.mp3.media_type)]
    if route.makes_music:
        return Annotated[Path, ContentType(AudioFormat.mp3.media_type)]
    return route.answer


async def _cancelled_on_disconnect(
    method: Method[R], service: Any, body: R, request: Request
) -> Response:
    """Runs a method, and has what it began cancelled when the client leaves."""
    context = RequestContext.from_scope(request.scope)
    watcher = asyncio.create_task(context.watch(request.receive))
    try:
        return await method(service, body, context)
    except BaseException:
        context.cancel()  # nobody will read the answer that the method had begun
        raise
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


class NoTimeoutMiddleware:
    """ASGI middleware in the place of BentoML's ``TimeoutMiddleware``: passes every request on.

    Bodies, queues, decoders and slow readers each have a bound of their own. BentoML's timeout
    would cut long generations off and can't be switched off, and BentoML 1.4.39 never cancels its
    timer: each request, refused ones too, would be kept in memory until the timeout has passed.
    """

    def __init__(self, app: ASGIApp, **_: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def disable_bentoml_timeout() -> None:
    """For the service that is made next; BentoML looks the class up when it builds its app."""
    traffic.TimeoutMiddleware = NoTimeoutMiddleware  # type: ignore[misc, assignment]
