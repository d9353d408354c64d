"""Fades and plans, with styles whose tokens can be read."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import pytest

from magenta_bento import conditioning
from magenta_bento.conditioning import Conditioning
from magenta_bento.live.steering import FADE_STEP_FRAMES, Fade, Steering, at, fade
from magenta_bento.prompting import Prompter
from magenta_bento.style import Embedding, StyleTokens

STYLE = slice(0, conditioning.STYLE_TOKENS)
DRUMS = conditioning.STYLE_TOKENS + conditioning.NOTES


class FakePrompter:
    """Tokens that are the embedding's first value, in percent."""

    async def each_tokens(self, embeddings: list[Embedding]) -> list[StyleTokens]:
        return [np.full(12, round(100 * float(e[0])), np.int32) for e in embeddings]


PROMPTER = cast("Prompter", FakePrompter())


def style(value: float) -> Embedding:
    return np.full(768, value, np.float32)


def percent(of: Conditioning) -> int:
    """What ``FakePrompter`` put in."""
    (value,) = set((of.tokens[STYLE] - conditioning.TOKEN_OFFSET).tolist())
    return int(value)


async def test_a_cut_is_a_plan_of_one_step() -> None:
    plan = await fade(Steering(style(0)), Steering(style(1)), 0).plan(PROMPTER)
    assert [(offset, percent(of)) for offset, of in plan] == [(0, 100)]


@pytest.mark.parametrize("ramp_s", [0.04, 0.2, 0.21, 1.0, 30.0])
async def test_a_fade_goes_evenly_from_old_to_new(ramp_s: float) -> None:
    wanted = fade(Steering(style(0)), Steering(style(1)), ramp_s)
    plan = await wanted.plan(PROMPTER)
    offsets = [offset for offset, _ in plan]
    assert offsets[0] == 0
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == wanted.frames
    assert wanted.frames >= ramp_s * 25 > wanted.frames - 1
    assert all(b - a <= FADE_STEP_FRAMES for a, b in itertools.pairwise(offsets))
    for offset, of in plan:
        assert abs(percent(of) - 100 * offset / wanted.frames) <= 0.51
    assert percent(plan[-1][1]) == 100


async def test_all_but_the_style_changes_at_once() -> None:
    new = Steering(style(1), temperature=0.5, top_k=7, guidance=5.0, drums=False)
    plan = await fade(Steering(style(0)), new, 1.0).plan(PROMPTER)
    assert percent(plan[0][1]) == 0
    for _, of in plan:
        assert (of.temperature, of.top_k) == (0.5, 7)
        assert of.tokens[DRUMS] == conditioning.TOKEN_OFFSET
        assert of.tokens[DRUMS + 1] == conditioning.TOKEN_OFFSET + round((5.0 + 1) / 0.2)


@pytest.mark.parametrize(("drums", "token"), [(None, -1), (False, 0), (True, 1)])
def test_drums(drums: bool | None, token: int) -> None:
    of = Steering(style(0), drums=drums).conditioning(np.zeros(12, np.int32))
    assert of.tokens[DRUMS] == token + conditioning.TOKEN_OFFSET


@pytest.mark.parametrize(
    ("notes", "expected"),
    [(None, {-1: 128}), ((), {0: 128}), ((60, 64, 64, 0), {0: 125, 3: 3})],
)
def test_notes(notes: tuple[int, ...] | None, expected: dict[int, int]) -> None:
    of = Steering(style(0), notes=notes).conditioning(np.zeros(12, np.int32))
    tokens = of.tokens[DRUMS - conditioning.NOTES : DRUMS] - conditioning.TOKEN_OFFSET
    assert dict(zip(*np.unique(tokens, return_counts=True), strict=True)) == expected
    for pitch in notes or ():
        assert tokens[pitch] == conditioning.MODEL_DECIDES


async def test_a_fade_out_of_nothing_is_a_cut() -> None:
    plan = await fade(None, Steering(style(0.3)), 5.0).plan(PROMPTER)
    assert [(offset, percent(of)) for offset, of in plan] == [(0, 30)]


async def test_a_fade_that_is_overtaken_goes_on_from_where_it_was() -> None:
    first = fade(Steering(style(0)), Steering(style(1), top_k=3), 1.0)
    now = at(first, 10)
    assert now.style[0] == pytest.approx(0.4)
    assert now.top_k == 3
    plan = await fade(now, Steering(style(0)), 1.0).plan(PROMPTER)
    assert [percent(of) for _, of in plan][:: len(plan) - 1] == [40, 0]


@pytest.mark.parametrize(("frame", "share"), [(-5, 0.0), (0, 0.0), (25, 1.0), (1_000, 1.0)])
def test_before_and_after_a_fade(frame: int, share: float) -> None:
    fading: Any = Fade(Steering(style(0)), Steering(style(1)), 25)
    assert at(fading, frame).style[0] == share
    assert at(fading, frame).style.dtype == np.float32
