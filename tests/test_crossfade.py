"""Fades, with styles whose tokens can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from fake_model import read_rows

from magenta_bento import conditioning
from magenta_bento.controls import STYLE_LEVELS, Controls, Drums
from magenta_bento.live.crossfade import MAX_FADE_STYLES, Crossfade, Steering, crossfade
from magenta_bento.prompting import Prompter
from magenta_bento.style import Embedding, Style, StyleTokens
from magenta_bento.timeline import Timeline

DRUMS = STYLE_LEVELS + 128


class FakePrompter:
    """Tokens that are the embedding's first value, in percent."""

    def __init__(self) -> None:
        self.looked_up = 0

    async def tokens(self, embeddings: Sequence[Embedding]) -> list[StyleTokens]:
        self.looked_up += len(embeddings)
        return [percent(e) for e in embeddings]


PROMPTER = cast("Prompter", FakePrompter())


def percent(embedding: Embedding) -> StyleTokens:
    return np.full(STYLE_LEVELS, round(100 * float(embedding[0])), np.int32)


def filled(value: float) -> Embedding:
    return np.full(768, value, np.float32)


def steering(value: float, **controls: Any) -> Steering:
    return Steering(Style(filled(value), percent(filled(value))), Controls(**controls))


def percents(timeline: Timeline, frames: int) -> list[int]:
    """What ``FakePrompter`` put in, for each of so many frames."""
    style = read_rows(timeline, 0, frames)[0][:, :STYLE_LEVELS] - conditioning.TOKEN_OFFSET
    assert (style == style[:, :1]).all()
    return [int(value) for value in style[:, 0]]


async def test_a_cut_is_one_row() -> None:
    timeline = await crossfade(filled(0), steering(1), 0).timeline(PROMPTER)
    assert len(timeline.tokens) == 1
    assert percents(timeline, 2) == [100, 100]


@pytest.mark.parametrize("ramp_s", [0.04, 0.2, 0.21, 1.0, 6.0])
async def test_a_fade_goes_evenly_from_old_to_new_in_every_frame(ramp_s: float) -> None:
    wanted = crossfade(filled(0), steering(1), ramp_s)
    assert wanted.frames >= ramp_s * 25 > wanted.frames - 1
    heard = percents(await wanted.timeline(PROMPTER), wanted.frames + 5)
    for frame in range(wanted.frames):
        assert abs(heard[frame] - 100 * frame / wanted.frames) <= 0.51
    assert heard[wanted.frames :] == [100] * 5


async def test_a_long_fade_looks_up_a_bounded_number_of_styles() -> None:
    prompter = FakePrompter()
    wanted = crossfade(filled(0), steering(1), 30.0)
    heard = percents(await wanted.timeline(cast("Prompter", prompter)), wanted.frames + 1)
    assert prompter.looked_up <= MAX_FADE_STYLES
    step = wanted.frames / MAX_FADE_STYLES
    assert all(
        -0.51 <= 100 * frame / wanted.frames - heard[frame] <= 100 * step / wanted.frames + 0.51
        for frame in range(wanted.frames)
    )
    assert heard == sorted(heard)
    assert heard[-1] == 100


async def test_all_but_the_style_changes_at_once() -> None:
    new = steering(1, temperature=0.5, top_k=7, guidance=5.0, drums=False)
    timeline = await crossfade(filled(0), new, 1.0).timeline(PROMPTER)
    assert percents(timeline, 1) == [0]
    tokens, temperature, top_k = read_rows(timeline, 0, 30)
    assert set(temperature.tolist()) == {0.5}
    assert set(top_k.tolist()) == {7}
    assert set(tokens[:, DRUMS].tolist()) == {conditioning.TOKEN_OFFSET}
    assert set(tokens[:, DRUMS + 1].tolist()) == {conditioning.TOKEN_OFFSET + 30}
    assert new.controls.drums is Drums.off


async def test_a_fade_out_of_nothing_is_a_cut() -> None:
    timeline = await crossfade(None, steering(0.3), 5.0).timeline(PROMPTER)
    assert percents(timeline, 3) == [30] * 3


async def test_a_fade_that_is_overtaken_goes_on_from_where_it_was() -> None:
    first = crossfade(filled(0), steering(1, top_k=3), 1.0)
    now = first.embedding_at(10)
    assert now[0] == pytest.approx(0.4)
    heard = percents(await crossfade(now, steering(0), 1.0).timeline(PROMPTER), 26)
    assert (heard[0], heard[-1]) == (40, 0)


@pytest.mark.parametrize(("frame", "share"), [(-5, 0.0), (0, 0.0), (25, 1.0), (1_000, 1.0)])
def test_before_and_after_a_fade(frame: int, share: float) -> None:
    embedding = Crossfade(filled(0), steering(1), 25).embedding_at(frame)
    assert embedding[0] == share
    assert embedding.dtype == np.float32
