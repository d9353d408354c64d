"""Our model against the stock ``MagentaRT2System``: the same codes, the same samples.

Everything is float32 on the demo's checkpoint, with seed 0, the only key the stock system has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from fake_model import read, rig
from magenta_rt.jax import system
from magenta_rt.musiccoca import MusicCoCa

from bench.stock import stock_system
from magenta_bento import conditioning
from magenta_bento.config import Settings
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.model.jax_model import JaxModel
from magenta_bento.model.protocol import StepInputs
from magenta_bento.timeline import Timeline, from_rows
from magenta_bento.weights.catalog import locate

FRAMES = 60
BLOCK = 5  # frames a step
FILES = locate("demo", Settings())
NOTE = [-1] * 60 + [2] + [-1] * 67


@dataclass(frozen=True)
class Piece:
    """One request, as we write it and as the stock system takes it."""

    ours: Timeline
    theirs: dict[str, Any]


def piece(
    style: list[int],
    guidance: tuple[float, float, float],
    temperature: float,
    top_k: int,
    playing: bool,
) -> Piece:
    """Guidance is of style, notes and drums."""
    notes, drums = (NOTE, 1) if playing else ([-1] * 128, -1)
    bins = conditioning.guidance_bins(*guidance)
    return Piece(
        from_rows(conditioning.assemble([style], notes, drums, bins), temperature, top_k),
        {
            "conditioning": {
                "mulan_tokens_25hz": style,
                "pianoroll_with_onsets_tokens": notes,
                "drum_pianoroll_tokens": [drums],
            },
            "cfg_scales": {
                "musiccoca": guidance[0],
                "notes": guidance[1],
                "drums": guidance[2],
            },
            "temperature": temperature,
            "top_k": top_k,
        },
    )


PIECES = [
    piece(list(range(50, 1_010, 80)), (3.0, 1.0, 1.0), 1.3, 40, playing=False),
    piece([7 * i + 3 for i in range(12)], (5.0, 2.4, 3.0), 0.8, 5, playing=True),
]


@dataclass(frozen=True)
class Played:
    """codes: int32 [frames, 12], at each step's end; pcm: int16 [frames * 1920, 2]."""

    codes: np.ndarray
    pcm: np.ndarray


def _changing_pieces() -> list[Piece]:
    """Another style, guidance, temperature, top-k, notes and drums in each frame."""
    rng = np.random.default_rng(5)
    return [
        piece(
            rng.integers(0, 1_024, 12).tolist(),
            tuple(rng.uniform((-1, -1, -1), (6.8, 6.8, 6.0)).tolist()),
            float(rng.uniform(0.2, 2)),
            int(rng.integers(1, 200)),
            playing=bool(frame % 3),
        )
        for frame in range(FRAMES)
    ]


CHANGING = _changing_pieces()


def together(pieces: Sequence[Piece]) -> Timeline:
    """A piece a frame, one after the other, as one timeline."""
    parts = [inputs(1, {0: piece.ours}, 0, 1) for piece in pieces]
    return from_rows(
        np.concatenate([part.tokens[0] for part in parts]),
        np.concatenate([part.temperature[0] for part in parts]),
        np.concatenate([part.top_k[0] for part in parts]),
    )


@pytest.fixture(scope="module")
def stock_system_of_the_demo() -> system.MagentaRT2System:
    return stock_system(
        "demo", FILES.checkpoint.parents[1], jnp.float32, style_model=MusicCoCa(FILES.musiccoca_dir)
    )


@pytest.fixture(scope="module")
def stock(stock_system_of_the_demo: system.MagentaRT2System) -> list[Played]:
    """What the stock system plays, frame by frame, warm-up included."""
    return [_played_by_stock(stock_system_of_the_demo, [piece]) for piece in PIECES]


def _played_by_stock(
    stock: system.MagentaRT2System, pieces: Sequence[Piece], frames: int = FRAMES
) -> Played:
    """Frame by frame, each by the next of the pieces, and from the last on all by that one."""
    state, codes, pcm = None, [], []
    for frame in range(frames):
        theirs = pieces[min(frame, len(pieces) - 1)].theirs
        waveform, state = stock.generate(**theirs, frames=1, state=state)
        codes.append(np.asarray(state[0][1].values)[0, 0])
        pcm.append((waveform.samples * 32_768).astype(np.int16))
    return Played(np.stack(codes), np.concatenate(pcm))


def inputs(size: int, rows: dict[int, Timeline], first: int, frames: int) -> StepInputs:
    made = StepInputs(
        np.full((size, frames, conditioning.SIZE), 6, np.int32),
        np.ones((size, frames), np.float32),
        np.ones((size, frames), np.int32),
        np.ones(size, np.bool_),
    )
    for row, timeline in rows.items():
        timeline.read(first, made.tokens[row], made.temperature[row], made.top_k[row])
    return made


def play(
    model: JaxModel, size: int, rows: dict[int, Timeline], *, seed: int = 0, block: int = BLOCK
) -> dict[int, Played]:
    """Plays pieces in rows of a batch, ``block`` frames a step."""
    state = model.init_state(size)
    for row in rows:
        state = model.insert(state, row, seed)
    codes, pcm = [], []
    for first in range(0, FRAMES, block):
        state, audio = model.step(state, inputs(size, rows, first, block))
        codes.append(np.asarray(state[0][1].values)[:, 0])
        pcm.append(audio.fetch())
    all_codes, all_pcm = np.stack(codes, 1), np.concatenate(pcm, 1)
    return {row: Played(all_codes[row], all_pcm[row]) for row in rows}


def test_alone_it_plays_what_the_stock_system_plays(
    demo_model: JaxModel, stock: list[Played]
) -> None:
    for piece, wanted in zip(PIECES, stock, strict=True):
        got = play(demo_model, 1, {0: piece.ours}, block=1)[0]
        np.testing.assert_array_equal(got.codes, wanted.codes)
        np.testing.assert_array_equal(got.pcm, wanted.pcm)
    assert not np.array_equal(stock[0].codes, stock[1].codes)


def test_in_a_batch_it_plays_what_the_stock_system_plays(
    demo_model: JaxModel, stock: list[Played]
) -> None:
    rows = {0: PIECES[1].ours, 1: PIECES[0].ours, 3: PIECES[1].ours}
    played = play(demo_model, 4, rows)
    for row, wanted in ((0, stock[1]), (1, stock[0]), (3, stock[1])):
        np.testing.assert_array_equal(played[row].codes, wanted.codes[BLOCK - 1 :: BLOCK])
        assert_within_one_step(played[row].pcm, wanted.pcm)


@pytest.mark.long
def test_with_the_codec_rewritten_it_is_the_same_within_one_step(
    demo_model: JaxModel, stock: list[Played]
) -> None:
    # demo_model is asked for first, because loading it sets the compilation cache up.
    model = JaxModel(
        ARCHITECTURES["demo"],
        FILES,
        max_frames=BLOCK,
        compute_dtype=jnp.float32,
        exact_codec=False,
    )
    model.compile([1])
    for piece, wanted in zip(PIECES, stock, strict=True):
        got = play(model, 1, {0: piece.ours}, block=1)[0]
        np.testing.assert_array_equal(got.codes, wanted.codes)
        assert_within_one_step(got.pcm, wanted.pcm)


@pytest.mark.parametrize("block", [2, 5])
def test_the_length_of_a_step_changes_nothing(
    demo_model: JaxModel, stock: list[Played], block: int
) -> None:
    got = play(demo_model, 1, {0: PIECES[0].ours}, block=block)[0]
    np.testing.assert_array_equal(got.pcm, stock[0].pcm)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_conditioning_that_changes_in_each_frame_is_played_as_the_stock_system_plays_it(
    demo_model: JaxModel, stock_system_of_the_demo: system.MagentaRT2System, block: int
) -> None:
    wanted = _played_by_stock(stock_system_of_the_demo, CHANGING)
    got = play(demo_model, 1, {0: together(CHANGING)}, block=block)[0]
    np.testing.assert_array_equal(got.codes, wanted.codes[block - 1 :: block])
    np.testing.assert_array_equal(got.pcm, wanted.pcm)


async def test_three_changes_within_a_step_are_heard_on_their_own_frames(
    demo_model: JaxModel,
) -> None:
    """Given one by one while it plays, as the same timeline given at once, through the engine."""
    timelines = [piece.ours for piece in CHANGING[:4]]
    rows = (26, 27, 29)
    with rig(demo_model) as made:
        stream = made.submit(50, seed=4, style=timelines[0])
        steered = [
            asyncio.create_task(stream.steer(timeline, row))
            for timeline, row in zip(timelines[1:], rows, strict=True)
        ]
        one_by_one = await read(stream)
        assert await asyncio.gather(*steered) == [25, 26, 28]
        given = timelines[0]
        for timeline, row in zip(timelines[1:], rows, strict=True):
            given = given.spliced(row, timeline)
        at_once = await read(made.submit(50, seed=4, style=given))
        unchanged = await read(made.submit(50, seed=4, style=timelines[0]))
    np.testing.assert_array_equal(one_by_one, at_once)
    differs = (one_by_one != unchanged).reshape(50, -1).any(axis=1)
    assert not differs[:25].any()
    assert differs[26]


def test_the_first_frame_is_silent_and_the_others_are_not(stock: list[Played]) -> None:
    pcm = stock[0].pcm
    assert not pcm[:1_920].any()
    assert all(frame.any() for frame in pcm[1_920:].reshape(FRAMES - 1, 1_920, 2))


def test_another_seed_is_other_music_and_the_same_one_the_same(demo_model: JaxModel) -> None:
    one, other, again = (
        play(demo_model, 1, {0: PIECES[0].ours}, seed=seed)[0] for seed in (1, 2, 1)
    )
    np.testing.assert_array_equal(one.pcm, again.pcm)
    assert not np.array_equal(one.codes, other.codes)
    largest = play(demo_model, 1, {0: PIECES[0].ours}, seed=2**32 - 1)[0]
    assert not np.array_equal(largest.codes, one.codes)


def test_sizes_are_known(demo_model: JaxModel) -> None:
    assert demo_model.batch_sizes == [1, 4]
    assert 15e6 < demo_model.parameter_bytes < 25e6
    assert 0 < demo_model.state_bytes < 5e6


def assert_within_one_step(got: np.ndarray, wanted: np.ndarray) -> None:
    difference = np.abs(got.astype(np.int32) - wanted)
    assert difference.max() <= 1
