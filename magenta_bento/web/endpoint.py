"""How an API method is published: its body parsed, its errors answered, its client watched.

    @endpoint("/generate/text", TextRequest)
    async def generate_text(self, request: TextRequest, call: Call) -> Response: ...

Invariant: nothing that a method raises leaves as anything but the one error shape, and a
method can have its work cancelled when the client goes (:meth:`Call.when_gone`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Concatenate, TypeVar

import bentoml
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from magenta_bento.access.budget import AudioBudget
from magenta_bento.errors import ServiceError
from magenta_bento.web.context import RequestContext
from magenta_bento.web.forms import parsed
from magenta_bento.web.requests import ApiRequest
from magenta_bento.web.responses import error_response

log = logging.getLogger("magenta_bento")

STATUS_CLIENT_GONE = 499  # nginx's word for it; nobody is left to read it, but logs are

R = TypeVar("R", bound=ApiRequest)
Method = Callable[Concatenate[Any, R, "Call", ...], Awaitable[Response]]


class ClientGone(Exception):
    """The client left while its answer was being made."""


class Call:
    """One request being served.

    Args:
      context: Who asks; what is made for them is noted there.
      budget: Charges them for music.
    """

    def __init__(self, context: RequestContext, budget: AudioBudget) -> None:
        self.context = context
        self.budget = budget
        self._cancels: list[Callable[[], None]] = []
        self._gone = False

    def when_gone(self, cancel: Callable[[], None]) -> None:
        """Has something cancelled once the client has left, or at once if it has already."""
        self._cancels.append(cancel)
        if self._gone:
            cancel()

    async def watch(self, request: Request) -> None:
        """Waits for the client to leave, and cancels."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    def cancel(self) -> None:
        """Cancels what was begun for this request, and what still will be."""
        self._gone = True
        for cancel in self._cancels:
            cancel()


def endpoint(
    route: str, model: type[R], returns: Any, *, streams: bool = False
) -> Callable[[Method[R]], Any]:
    """Publishes a method as a BentoML API.

    Args:
      route: Its path.
      model: The type of its body.
      returns: What BentoML publishes as the answer: an annotation.
      streams: Whether BentoML's client should read the answer as it comes.
    """

    def publish(method: Method[R]) -> Any:
        async def serve(self: Any, request: Request) -> Any:
            try:
                async with parsed(request, model, self.settings) as body:
                    return await _watched(method, self, body, request)
            except ServiceError as error:
                return error_response(error)
            except (ClientDisconnect, ClientGone):
                return Response(status_code=STATUS_CLIENT_GONE)
            except Exception:
                log.exception("an unexpected error in %s", route)
                return error_response(ServiceError("an unexpected error; the server's log has it"))

        serve.__name__ = method.__name__
        serve.__qualname__ = method.__qualname__
        serve.__module__ = method.__module__
        serve.__doc__ = method.__doc__
        serve.__annotations__ = {"request": Request, "return": returns}
        api = bentoml.api(route=route, input_spec=model)(serve)
        api.is_stream = streams
        return api

    return publish


async def _watched(method: Method[R], service: Any, body: R, request: Request) -> Response:
    """Runs a method while watching for the client's going."""
    context = RequestContext.from_scope(request.scope)
    call = Call(context, AudioBudget(service.runtime.access.limits, context.client.id))
    watcher = asyncio.create_task(call.watch(request))
    try:
        return await method(service, body, call)
    except BaseException:
        call.cancel()  # nobody will read what it has begun
        raise
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
