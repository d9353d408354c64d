"""How an API method is published: its body parsed, its errors answered, its client watched.

    @endpoint("/generate/text", TextRequest)
    async def generate_text(self, request: TextRequest, call: Call) -> Response: ...

Invariant: nothing that a method raises leaves as anything but the one error shape, and a
method whose client has gone is told by :attr:`Call.gone`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Concatenate, TypeVar

import bentoml
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from magenta_bento.errors import ServiceError
from magenta_bento.web.forms import parsed
from magenta_bento.web.requests import ApiRequest
from magenta_bento.web.responses import error_response

log = logging.getLogger("magenta_bento")

STATUS_CLIENT_GONE = 499  # nginx's word for it; nobody is left to read it, but logs are

R = TypeVar("R", bound=ApiRequest)
Method = Callable[Concatenate[Any, R, "Call", ...], Awaitable[Response]]


class ClientGone(Exception):
    """The client left while its answer was being made."""


@dataclass(frozen=True)
class Call:
    """One request being served.

    Attributes:
      client: Whose turn it is in queues.
      gone: Set once the client has left.
    """

    client: str
    gone: asyncio.Event


def endpoint(route: str, model: type[R], returns: Any) -> Callable[[Method[R]], Any]:
    """Publishes a method as a BentoML API.

    Args:
      route: Its path.
      model: The type of its body.
      returns: What BentoML publishes as the answer: an annotation.
    """

    def publish(method: Method[R]) -> Any:
        async def serve(self: Any, request: Request) -> Any:
            try:
                limit = self.settings.max_file_size_bytes
                async with parsed(request, model, limit) as body:
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
        return bentoml.api(route=route, input_spec=model)(serve)

    return publish


async def _watched(method: Method[R], service: Any, body: R, request: Request) -> Response:
    """Runs a method while watching for the client's going."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        client = request.client.host if request.client else ""
        return await method(service, body, Call(client, gone))
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
