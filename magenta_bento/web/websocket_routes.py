"""The WebSocket routes: which protocol lives where.

Invariant: a socket is accepted only while the model is ready, and closed when its protocol is done.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from magenta_bento.errors import NotReady
from magenta_bento.live import jam_messages
from magenta_bento.live.connection import Connection
from magenta_bento.live.jam_protocol import Jam
from magenta_bento.live.lyria_protocol import Lyria
from magenta_bento.live.protocol import LiveProtocol
from magenta_bento.live.session import LiveSession
from magenta_bento.runtime import LoadedModel, Runtime
from magenta_bento.web.context import RequestContext
from magenta_bento.web.response_models import MessageSchemas
from magenta_bento.web.responses import json_response
from magenta_bento.web.routes import JAM, JAM_SCHEMA, LYRIA

LYRIA_METHOD = "GenerativeService.BidiGenerateMusic"
NORMAL_CLOSE = 1000
NO_SUCH_METHOD = 1008


def routes(runtime: Callable[[], Runtime]) -> list[BaseRoute]:
    """The routes of live music.

    Args:
      runtime: Returns the server's runtime, which is made after the routes.
    """

    async def serve(
        socket: WebSocket, protocol: Callable[[Connection, LiveSession, LoadedModel], LiveProtocol]
    ) -> None:
        await socket.accept()
        connection = Connection(socket)
        try:
            loaded = runtime().loaded
        except NotReady as error:
            await connection.close(error.close_code, error.message)
            return
        context = RequestContext.from_scope(socket.scope)
        session = LiveSession(
            loaded.engine,
            loaded.prompter,
            context.client.id,
            context.budget,
            on_stream=context.attach_stream,
            on_underrun=runtime().metrics.underruns.inc,
        )
        await protocol(connection, session, loaded).run()
        await connection.close(NORMAL_CLOSE)

    async def jam(socket: WebSocket) -> None:
        model = runtime().files.name
        await serve(socket, lambda c, session, on: Jam(c, session, on.prompter, model))

    async def lyria(socket: WebSocket) -> None:
        if not socket.path_params["method"].endswith(LYRIA_METHOD):
            await socket.close(NO_SUCH_METHOD)
            return
        await serve(socket, lambda c, session, on: Lyria(c, session, on.prompter))

    async def schema(_: Request) -> Response:
        return json_response(MessageSchemas.model_validate(jam_messages.schema()))

    return [
        WebSocketRoute(JAM.path, jam),
        Route(JAM_SCHEMA.path, schema),
        *(WebSocketRoute(path, lyria) for path in (LYRIA.path, *LYRIA.other_paths)),
    ]
