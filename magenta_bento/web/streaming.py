"""Music over HTTP while it is made.

Invariant: headers leave only with the first audio, so that what goes wrong before it has its
proper status; what goes wrong after it breaks the connection off, so that no client takes a
part for the whole; and a client that reads nothing for ``STALL_S`` is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from magenta_bento.access.budget import AudioBudget
from magenta_bento.audio.encode import Encoder, encode_off_loop
from magenta_bento.audio.formats import FRAME_SAMPLES, FRAMES_PER_SECOND
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.errors import SlowReader
from magenta_bento.live.pacing import Pacer
from magenta_bento.tracing import record

STALL_S = 30.0


async def encoded(
    stream: Stream,
    encoder: Encoder,
    pacer: Pacer | None,
    budget: AudioBudget,
    pool: ThreadPoolExecutor,
) -> AsyncGenerator[bytes, None]:
    """A stream's bytes, never empty ones, at the pacer's pace or as fast as they are taken.

    Args:
      budget: Charges for each block before it is encoded.
      pool: Where the encoder runs.

    Raises:
      ServiceError: The stream or the encoder failed, or the client's budget is spent.
    """
    started = time.monotonic()
    async for block in stream.blocks():
        block_s = len(block) / FRAME_SAMPLES / FRAMES_PER_SECOND
        await budget.reserve(block_s)
        data = await encode_off_loop(encoder, block, pool)
        if pacer is not None:
            await pacer.clear_to_send(block_s)
        if data:
            yield data
        if pacer is not None:
            pacer.sent(block_s)
    if stream.phase is Phase.FINISHED and (
        rest := await asyncio.get_running_loop().run_in_executor(pool, encoder.finish)
    ):
        yield rest
    record("encode", stream.timing.first_block or started, time.monotonic())


class StreamedAudio(Response):
    """A response whose body is made while it is sent.

    Args:
      first: The first bytes of the body.
      rest: The bytes after them.
      cancel: Called when the client goes away.
      media_type: Media type of the audio.
      headers: Response headers beside the content type.
    """

    def __init__(
        self,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        cancel: Callable[[], None],
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self._first = first
        self._rest = rest
        self._cancel = cancel
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await send(start)
            await _send_chunk(send, self._first)
            async for chunk in self._rest:
                await _send_chunk(send, chunk)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._cancel()
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
            await self._rest.aclose()
            if self.background is not None:
                await self.background()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()


async def _send_chunk(send: Send, chunk: bytes) -> None:
    """Raises SlowReader if it can't leave in time."""
    message = {"type": "http.response.body", "body": chunk, "more_body": True}
    try:
        await asyncio.wait_for(send(message), STALL_S)
    except TimeoutError:
        raise SlowReader(f"nothing was read for {STALL_S:g} seconds") from None
