"""GET /requests/{id}: how far a client's own request is, for clients that wait for a long one.

A client sends an ``X-Request-ID`` of its own with the request, and asks for it meanwhile.

Invariant: a client sees its own requests only, and what is kept of an ended one is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from cachetools import TTLCache

from magenta_bento.audio.formats import FRAME_S
from magenta_bento.engine.engine import Engine
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.errors import NoSuchRequest, shorten
from magenta_bento.web.context import RequestContext
from magenta_bento.web.response_models import PREPARING, RequestProgress

KEPT_S = 600.0
KEPT_REQUESTS = 4_096  # full, it forgets the one that ended first


class Progress:
    """The requests that are served or ended lately, by client and request id."""

    def __init__(self) -> None:
        self._open: dict[int, RequestContext] = {}  # each is an open request: bounded as they are
        self._ended: TTLCache[tuple[str, str], RequestProgress] = TTLCache(KEPT_REQUESTS, KEPT_S)

    @contextmanager
    def track(self, context: RequestContext) -> Iterator[None]:
        """Tracks a request for as long as the context manager lasts, and keeps how it ended."""
        self._open[id(context)] = context
        try:
            yield
        finally:
            del self._open[id(context)]
            if context.stream is not None:  # a request without one was refused
                self._ended[context.client.id, context.id] = _report(context, None)

    def report(self, client: str, request_id: str, engine: Engine) -> RequestProgress:
        """How far a request is; of two with one id, the later.

        Raises:
          NoSuchRequest: The client has none with this id, or not any more.
        """
        for context in reversed(self._open.values()):
            if (context.client.id, context.id) == (client, request_id):
                return _report(context, engine)
        if report := self._ended.get((client, request_id)):
            return report
        raise NoSuchRequest(f"no request of this client has the id {shorten(request_id)}")


def _report(context: RequestContext, engine: Engine | None) -> RequestProgress:
    stream = context.stream
    waits = engine is not None and stream is not None and not stream.phase.ended
    position = engine.position(stream) if engine and stream and waits else None
    wait_s = engine.wait_s(stream) if engine and stream and waits else None
    frames = stream.spec.frames if stream else None
    return RequestProgress(
        id=context.id,
        state=_state(stream, is_open=engine is not None),
        queue_position=position,
        estimated_wait_s=None if wait_s is None else round(wait_s, 1),
        audio_seconds=None if frames is None else round(frames * FRAME_S, 2),
        made_seconds=round(context.audio_s, 2),
    )


def _state(stream: Stream | None, *, is_open: bool) -> Literal["preparing"] | Phase:
    if stream is None:
        return PREPARING
    if is_open or stream.phase.ended:
        return stream.phase
    return Phase.CANCELLED  # the engine ends at its next step what its reader has left
