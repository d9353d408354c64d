"""Google's own Python SDK against a server; run as a program, since it reads SSL_CERT_FILE.

Usage: genai_client.py https://localhost:3000; prints what it heard, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import Any

from google import genai
from google.genai import types

SECONDS = 10
BYTES_PER_SECOND = 48_000 * 4


async def main(base_url: str) -> dict[str, Any]:
    client = genai.Client(
        api_key="any", http_options={"api_version": "v1alpha", "base_url": base_url}
    )
    heard = bytearray()
    mime_types: set[str] = set()
    async with client.aio.live.music.connect(model="models/lyria-realtime-exp") as session:
        music = session.receive()

        async def hear(seconds: float) -> Any:
            more = len(heard) + seconds * BYTES_PER_SECOND
            while len(heard) < more:
                message = await anext(music)
                if message.server_content:
                    for chunk in message.server_content.audio_chunks:
                        heard.extend(chunk.data)
                        mime_types.add(chunk.mime_type)
            return chunk.source_metadata

        await session.set_weighted_prompts(
            [
                types.WeightedPrompt(text="disco funk", weight=1.0),
                types.WeightedPrompt(text="slow piano", weight=0.3),
            ]
        )
        config = types.LiveMusicGenerationConfig(
            bpm=90, temperature=1.0, top_k=30, guidance=3.5, seed=5, mute_drums=True
        )
        await session.set_music_generation_config(config=config)
        await session.play()
        source = await hear(SECONDS / 2)
        await session.reset_context()
        await hear(SECONDS / 2)
        await session.pause()
        await session.play()
        await hear(1)
        await session.stop()
    return {
        "seconds": len(heard) / BYTES_PER_SECOND,
        "loudest": max(abs(s) for s in memoryview(bytes(heard)).cast("h")),
        "mime_types": sorted(mime_types),
        "source": source.model_dump(exclude_none=True),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the SDK calls its live music experimental
    print(json.dumps(asyncio.run(asyncio.wait_for(main(sys.argv[1]), 120))))
