"""Encoding without holding up the event loop.

Invariant: an encoder is fed by one caller at a time, in order, and a codec never runs on the loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from magenta_bento.audio.encode import Encoder
from magenta_bento.audio.pcm import Pcm


async def feed(encoder: Encoder, pcm: Pcm, pool: Executor | None = None) -> bytes:
    """The encoder's bytes for some samples, int16 [N, 2].

    Args:
      pool: Where a codec runs; the loop's own threads if None.
    """
    if encoder.in_place:
        return encoder.feed(pcm)
    return await asyncio.get_running_loop().run_in_executor(pool, encoder.feed, pcm)
