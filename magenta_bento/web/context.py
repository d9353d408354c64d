"""One request or connection, from its arrival to its last byte: who, what, and how it went.

What serves a request writes here what it did; the access line, the metrics, the traces and
``GET /requests/{id}`` are made from it.

Invariant: every request that passes the middleware has exactly one.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from magenta_bento.access.budget import AudioBudget
from magenta_bento.access.clients import Client
from magenta_bento.audio.formats import FRAME_S
from magenta_bento.engine.stream import Stream
from magenta_bento.web.headers import QUEUE_POSITION, REQUEST_ID, REQUEST_ID_CHARACTERS
from magenta_bento.web.routes import Route

_SCOPE_KEY = "magenta_bento.context"
_VALID_ID = re.compile(REQUEST_ID_CHARACTERS)

UNKNOWN = Client("", "", "")


@dataclass
class RequestContext:
    """What is known of one request or connection while it is served.

    Attributes:
      id: The request's id: the client's own, if it sent a valid one.
      route: Its route; ``routes.UNKNOWN`` if the server has no such route.
      client: Who sent it; ``UNKNOWN`` until the admission middleware has looked.
      started: When it arrived, by ``time.monotonic``.
      budget: Charges the client for music; set by the admission middleware.
      status: HTTP status of the answer; 0 until there is one.
      headers: Response headers to be added to the answer.
      stream: The music that was made, the last one if there were several.
      queue_position: How many streams were to be served before it.
      broken_off: What ended the answer before its end; "" if nothing did.
      prompt: What was asked for, for operators who want it in the log.
    """

    id: str
    route: Route
    client: Client = UNKNOWN
    started: float = field(default_factory=time.monotonic)
    budget: AudioBudget = field(init=False, repr=False, compare=False)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    queue_position: int | None = None
    broken_off: str = ""
    prompt: str = ""
    _frames_of_earlier_streams: int = 0
    _disconnected: bool = False
    _cancels: list[Callable[[], None]] = field(default_factory=list)

    @classmethod
    def create(cls, scope: Scope, route: Route) -> RequestContext:
        """Makes the context of a request and stores it in its scope."""
        sent_id = Headers(scope=scope).get(REQUEST_ID.name, "")
        request_id = sent_id if _VALID_ID.fullmatch(sent_id) else secrets.token_hex(16)
        context = cls(request_id, route)
        scope[_SCOPE_KEY] = context
        return context

    @classmethod
    def from_scope(cls, scope: Scope) -> RequestContext:
        """The context that :meth:`create` stored in a scope.

        Raises:
          KeyError: The middleware was left out.
        """
        context: RequestContext = scope[_SCOPE_KEY]
        return context

    @property
    def audio_s(self) -> float:
        """Seconds of music made for it so far."""
        frames = self.stream.frames_made if self.stream else 0
        return (self._frames_of_earlier_streams + frames) * FRAME_S

    def attach_stream(self, stream: Stream, position: int | None) -> None:
        """Records the stream that was begun for it; a live connection may begin several in turn."""
        if self.stream is not None:
            self._frames_of_earlier_streams += self.stream.frames_made
        self.stream = stream
        self.queue_position = position or 0
        self.headers[QUEUE_POSITION.name] = str(self.queue_position)

    def on_disconnect(self, cancel: Callable[[], None]) -> None:
        """Calls ``cancel`` once the client has left, or at once if it has left already."""
        self._cancels.append(cancel)
        if self._disconnected:
            cancel()

    async def watch(self, receive: Receive) -> None:
        """Waits until the client leaves, and cancels the work that was begun for it."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    def cancel(self) -> None:
        """Cancels the work that was begun for this request, and all that will be begun for it."""
        self._disconnected = True
        for cancel in self._cancels:
            cancel()
