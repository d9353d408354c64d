"""Styles for tests that need none: no MusicCoCa, and no time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from magenta_bento.prompting import AudioSource, PromptSource, TextSource
from magenta_bento.style import Embedding, Style, StyleTokens, blend


class FakePrompter:
    """A style is the length of its text, or of its file."""

    async def text(self, text: str) -> Style:
        return _style(_filled(len(text)))

    async def audio(self, file: BinaryIO, field: str) -> Style:
        return _style(_filled(len(file.read())))

    async def blend(
        self, prompts: Sequence[PromptSource], weights: Sequence[float], field: str
    ) -> Style:
        return _style(blend([_source(prompt) for prompt in prompts], weights, field))

    async def tokens(self, embeddings: Sequence[Embedding]) -> list[StyleTokens]:
        return [_style(embedding).tokens for embedding in embeddings]


def _source(prompt: PromptSource) -> Embedding:
    match prompt:
        case TextSource(text):
            return _filled(len(text))
        case AudioSource(file, _):
            return _filled(len(file.read()))
        case _:
            raise NotImplementedError("nothing is stored here")


def _filled(value: float) -> Embedding:
    return np.full(768, value, np.float32)


def _style(embedding: Embedding) -> Style:
    return Style(embedding, np.full(12, round(float(embedding[0])), np.int32))
