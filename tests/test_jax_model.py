"""Our model against the stock ``MagentaRT2System``: the same codes, the same samples.

Everything is float32 on the demo's checkpoint, with seed 0, the only key the stock system has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from magenta_rt.jax import system
from magenta_rt.musiccoca import MusicCoCa

from bench.stock import stock_system
from magenta_bento import conditioning
from magenta_bento.conditioning import Conditioning, Controls, Guidance
from magenta_bento.config import Settings
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.model.jax_model import JaxModel
from magenta_bento.model.protocol import StepInputs
from magenta_bento.weights.catalog import locate

FRAMES = 60
BLOCK = 5  # frames a step
FILES = locate("demo", Settings())
NOTE = [-1] * 60 + [2] + [-1] * 67


@dataclass(frozen=True)
class Piece:
    """One request, as we write it and as the stock system takes it."""

    ours: Conditioning
    theirs: dict[str, Any]


def piece(
    style: list[int], guidance: Guidance, temperature: float, top_k: int, playing: bool
) -> Piece:
    notes, drums = (NOTE, 1) if playing else ([-1] * 128, -1)
    return Piece(
        conditioning.build(
            np.array(style, np.int32), Controls(guidance, notes, drums), temperature, top_k
        ),
        {
            "conditioning": {
                "mulan_tokens_25hz": style,
                "pianoroll_with_onsets_tokens": notes,
                "drum_pianoroll_tokens": [drums],
            },
            "cfg_scales": {
                "musiccoca": guidance.style,
                "notes": guidance.notes,
                "drums": guidance.drums,
            },
            "temperature": temperature,
            "top_k": top_k,
        },
    )


PIECES = [
    piece(list(range(50, 1_010, 80)), Guidance(), 1.3, 40, playing=False),
    piece([7 * i + 3 for i in range(12)], Guidance(5.0, 2.4, 3.0), 0.8, 5, playing=True),
]


@dataclass(frozen=True)
class Played:
    """codes: int32 [frames, 12], at each step's end; pcm: int16 [frames * 1920, 2]."""

    codes: np.ndarray
    pcm: np.ndarray


@pytest.fixture(scope="module")
def stock() -> list[Played]:
    """What the stock system plays, frame by frame, warm-up included."""
    stock = stock_system(
        "demo", FILES.checkpoint.parents[1], jnp.float32, style_model=MusicCoCa(FILES.musiccoca_dir)
    )
    return [_played_by_stock(stock, piece) for piece in PIECES]


def _played_by_stock(stock: system.MagentaRT2System, piece: Piece) -> Played:
    state, codes, pcm = None, [], []
    for _ in range(FRAMES):
        waveform, state = stock.generate(**piece.theirs, frames=1, state=state)
        codes.append(np.asarray(state[0][1].values)[0, 0])
        pcm.append((waveform.samples * 32_768).astype(np.int16))
    return Played(np.stack(codes), np.concatenate(pcm))


def inputs(size: int, rows: dict[int, Conditioning], frames: int) -> StepInputs:
    made = StepInputs(
        np.full((size, conditioning.SIZE), 6, np.int32),
        np.ones(size, np.float32),
        np.ones(size, np.int32),
        np.ones(size, np.bool_),
        frames,
    )
    for row, style in rows.items():
        made.tokens[row] = style.tokens
        made.temperature[row] = style.temperature
        made.top_k[row] = style.top_k
    return made


def play(
    model: JaxModel, size: int, rows: dict[int, Conditioning], *, seed: int = 0, block: int = BLOCK
) -> dict[int, Played]:
    """Plays pieces in rows of a batch, ``block`` frames a step."""
    state = model.init_state(size)
    for row in rows:
        state = model.insert(state, row, seed)
    codes, pcm = [], []
    for _ in range(FRAMES // block):
        state, audio = model.step(state, inputs(size, rows, block))
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
