"""Styles for tests that need none: no MusicCoCa, and no time."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np


class FakePrompter:
    """A style is the length of its text, or of its file."""

    async def text(self, text: str) -> Any:
        return np.full(768, len(text), np.float32)

    async def audio(self, file: BinaryIO, field: str) -> Any:
        return np.full(768, len(file.read()), np.float32)

    async def tokens(self, embedding: Any) -> Any:
        return np.full(12, round(float(embedding[0])), np.int32)

    async def each_tokens(self, embeddings: list[Any]) -> list[Any]:
        return [await self.tokens(embedding) for embedding in embeddings]
