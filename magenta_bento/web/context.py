"""One request or connection, from its arrival to its last byte: who, what, and how it went.

What serves a request notes here what it did; the access line, the metrics, the traces and
``GET /requests/{id}`` are made from it.

Invariant: every request that passes the middleware has exactly one.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import Scope

from magenta_bento.access.clients import Client
from magenta_bento.engine.spec import FRAME_S
from magenta_bento.engine.stream import Stream

REQUEST_ID_HEADER = "X-Request-ID"
_SCOPE_KEY = "magenta_bento.context"
_GOOD_ID = re.compile(r"[A-Za-z0-9._~:+/=-]{1,128}")

UNKNOWN = Client("", "", "")


@dataclass
class RequestContext:
    """See the module.

    Attributes:
      id: The request's id: the client's own, if it sent a fit one.
      route: Which route of ours, "other" for none.
      client: Who; unknown until the admission middleware has looked.
      began: When, by ``time.monotonic``.
      status: HTTP status of the answer; 0 until there is one.
      headers: To be put on the answer.
      stream: The music that was made, the last one if there were several.
      queue_position: How many were to be served before it.
      broken_off: What ended the answer before its end, if anything did.
      prompt: What was asked for, for those who want it in the log.
    """

    id: str
    route: str
    client: Client = UNKNOWN
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    queue_position: int | None = None
    broken_off: str = ""
    prompt: str = ""
    _frames_before: int = 0

    @classmethod
    def create(cls, scope: Scope, route: str) -> RequestContext:
        """Begins one, and notes it in the scope."""
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        context = cls(given if _GOOD_ID.fullmatch(given) else secrets.token_hex(16), route)
        scope[_SCOPE_KEY] = context
        return context

    @classmethod
    def from_scope(cls, scope: Scope) -> RequestContext:
        """That of a scope.

        Raises:
          KeyError: The middleware was left out.
        """
        context: RequestContext = scope[_SCOPE_KEY]
        return context

    @property
    def audio_s(self) -> float:
        """Seconds of music made for it so far."""
        frames = self.stream.frames_made if self.stream else 0
        return (self._frames_before + frames) * FRAME_S

    def plays(self, stream: Stream, position: int | None) -> None:
        """Notes the stream that a request has got; a live one may get several in turn."""
        if self.stream is not None:
            self._frames_before += self.stream.frames_made
        self.stream = stream
        self.queue_position = position or 0
        self.headers["X-Queue-Position"] = str(self.queue_position)
