"""Music is charged before it is played, and no more of it than a slice."""

from __future__ import annotations

import math

import pytest

from magenta_bento.access.budget import SLICE_S, AudioBudget
from magenta_bento.access.rate_limits import Limits
from magenta_bento.access.store import Store
from magenta_bento.audio.formats import FRAME_S
from magenta_bento.config import IN_MEMORY, Settings
from magenta_bento.errors import AudioBudgetSpent
from magenta_bento.metrics import Metrics

ALICE = "key alice"
BUDGET_S = 100


@pytest.fixture(name="limits")
def _limits(metrics: Metrics) -> Limits:
    settings = Settings(rate_limit_audio_seconds_per_hour=BUDGET_S)
    return Limits(settings, Store(IN_MEMORY, metrics), metrics)


@pytest.fixture(name="budget")
def _meter(limits: Limits) -> AudioBudget:
    return AudioBudget(limits, ALICE)


async def spent(limits: Limits) -> int:
    """Seconds that were taken from the budget."""
    left, too_many = 0, BUDGET_S + 1
    while too_many - left > 1:
        tried = (left + too_many) // 2
        try:
            await limits.check_audio(ALICE, tried)
        except AudioBudgetSpent:
            too_many = tried
        else:
            left = tried
    return BUDGET_S - left


async def test_a_whole_piece_is_charged_at_once(budget: AudioBudget, limits: Limits) -> None:
    await budget.check(40)
    assert await spent(limits) == 0
    await budget.charge(40)
    assert await spent(limits) == 40
    with pytest.raises(AudioBudgetSpent):
        await budget.check(61)
    with pytest.raises(AudioBudgetSpent):
        await budget.charge(61)
    assert await spent(limits) == 40


@pytest.mark.parametrize("block_s", [FRAME_S, 3 * FRAME_S, 0.2, 0.32, 2.0, 7.0, 25.0])
async def test_what_plays_is_charged_in_advance(
    budget: AudioBudget, limits: Limits, block_s: float
) -> None:
    await budget.check(None)  # music without an end
    for number in range(1, math.floor(80 / block_s) + 1):
        await budget.reserve(block_s)
        played_s = round(number * block_s, 6)
        charged_s = await spent(limits)
        assert played_s <= charged_s < played_s + SLICE_S
        assert charged_s % SLICE_S == 0


@pytest.mark.parametrize("block_s", [FRAME_S, 2 * FRAME_S, 0.2])
@pytest.mark.parametrize("whole_s", [0.4, 2.0, 8.0, 10.0, 20.0, 60.0, 100.0])
async def test_a_stream_with_an_end_is_charged_to_it(
    budget: AudioBudget, limits: Limits, block_s: float, whole_s: float
) -> None:
    """Neither a slice too many at its end, nor for a sum of floats that passes it."""
    await budget.check(whole_s)
    for _ in range(round(whole_s / block_s)):
        await budget.reserve(block_s)
    assert await spent(limits) == math.ceil(whole_s)


async def test_a_length_between_two_frames_is_charged_as_it_is_played(
    budget: AudioBudget, limits: Limits
) -> None:
    await budget.check(2.01)
    for _ in range(51):  # 2.04 s
        await budget.reserve(FRAME_S)
    assert await spent(limits) == 3


async def test_what_was_checked_can_be_played(budget: AudioBudget, limits: Limits) -> None:
    """The last seconds of a budget are enough for a piece of that length."""
    await AudioBudget(limits, ALICE).charge(BUDGET_S - 5)
    with pytest.raises(AudioBudgetSpent):
        await budget.check(None)
    await budget.check(4)
    await budget.reserve(4)
    assert await spent(limits) == BUDGET_S - 1


async def test_music_without_an_end_ends_with_the_budget(
    budget: AudioBudget, limits: Limits
) -> None:
    await budget.check(None)
    for _ in range(BUDGET_S):
        await budget.reserve(1.0)
    with pytest.raises(AudioBudgetSpent):
        await budget.reserve(FRAME_S)
    assert await spent(limits) == BUDGET_S


async def test_a_session_that_starts_again_uses_up_what_it_paid(
    budget: AudioBudget, limits: Limits
) -> None:
    await budget.check(None)
    await budget.reserve(3)
    await budget.check(None)
    await budget.reserve(6)
    assert await spent(limits) == SLICE_S


async def test_without_a_budget_nothing_is_charged(metrics: Metrics) -> None:
    limits = Limits(Settings(), Store(IN_MEMORY, metrics), metrics)
    budget = AudioBudget(limits, ALICE)
    await budget.check(None)
    await budget.charge(1e6)
    await budget.reserve(1e4)
