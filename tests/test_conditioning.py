"""The rows that frames are conditioned on, against those that upstream makes."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from magenta_rt import config as upstream
from magenta_rt.jax import system
from magenta_rt.jax.model import MODEL_REGISTRY

from magenta_bento.conditioning import SIZE, TOKEN_OFFSET, assemble, guidance_bins, rows
from magenta_bento.controls import (
    HIGHEST_DRUMS_GUIDANCE,
    HIGHEST_GUIDANCE,
    LOWEST_GUIDANCE,
    Controls,
)

STYLE = np.arange(12, dtype=np.int32) * 80
CHORD = [2 if pitch in (60, 64, 67) else 0 for pitch in range(128)]
NONE = [-1] * 128
BINS = guidance_bins(3.0, 1.0, 1.0)


def upstreams(
    conditioning: dict[str, Any], guidance: dict[str, float] | None = None
) -> np.ndarray[Any, Any]:
    """What ``MagentaRT2System`` would read, from its method without loading its weights."""
    model = MODEL_REGISTRY.get("mrt2_small")()
    stub = SimpleNamespace(
        cfg_scales=guidance or {"musiccoca": 3.0, "notes": 1.0, "drums": 1.0},
        temperature=1.3,
        top_k=40,
        _model=model,
    )
    block, _ = system.MagentaRT2System._build_conditioning(stub, conditioning)
    return np.asarray(block.values).reshape(-1)


def row(**controls: Any) -> np.ndarray:
    """int32 [144]."""
    return rows(STYLE[None], Controls(**controls))[0]


def states(**controls: Any) -> dict[int, list[int]]:
    """The pitches in each state."""
    notes = row(**controls)[12:140] - TOKEN_OFFSET
    return {int(state): np.flatnonzero(notes == state).tolist() for state in np.unique(notes)}


STYLE_KEY = upstream.MUSICCOCA.key
NOTES_KEY = upstream.PIANOROLL_WITH_ONSETS.key
DRUMS_KEY = "drum_pianoroll_tokens"
CASES = {
    "nothing but style": ({STYLE_KEY: STYLE}, (NONE, -1)),
    "notes": ({STYLE_KEY: STYLE, NOTES_KEY: CHORD}, (CHORD, -1)),
    "no drums": ({STYLE_KEY: STYLE, DRUMS_KEY: [0]}, (NONE, 0)),
    "all": ({STYLE_KEY: STYLE, NOTES_KEY: [3] * 128, DRUMS_KEY: [1]}, ([3] * 128, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_layout_is_upstreams(case: str) -> None:
    theirs, (notes, drums) = CASES[case]
    made = assemble(STYLE[None], notes, drums, BINS)
    assert made.dtype == np.int32
    assert made.shape == (1, SIZE) == (1, 144)
    np.testing.assert_array_equal(made[0], upstreams(theirs))


def test_parts_may_differ_from_frame_to_frame() -> None:
    styles, notes = np.stack([STYLE, STYLE + 1]), np.stack([CHORD, NONE])
    made = assemble(styles, notes, [0, 1], BINS)
    for frame, drums in enumerate((0, 1)):
        alone = assemble(styles[frame : frame + 1], notes[frame], drums, BINS)
        np.testing.assert_array_equal(made[frame], alone[0])


def test_controls_default_to_upstreams() -> None:
    np.testing.assert_array_equal(row(), upstreams({STYLE_KEY: STYLE}))
    theirs = inspect.signature(system.MagentaRT2System).parameters
    assert Controls().temperature == theirs["temperature"].default
    assert Controls().top_k == theirs["top_k"].default


def test_style_may_be_left_out() -> None:
    none = np.full((1, 12), -1, np.int32)
    np.testing.assert_array_equal(rows(none)[0], upstreams({}))


@pytest.mark.parametrize(("drums", "state"), [("auto", -1), ("off", 0), ("on", 1)])
def test_drums(drums: str, state: int) -> None:
    assert row(drums=drums)[140] - TOKEN_OFFSET == state


@pytest.mark.parametrize("levels", [1, 6, 12])
def test_fine_levels_of_the_style_may_be_masked(levels: int) -> None:
    style = row(style_levels=levels)[:12] - TOKEN_OFFSET
    assert style[:levels].tolist() == STYLE[:levels].tolist()
    assert style[levels:].tolist() == [-1] * (12 - levels)


EVERY = list(range(128))
AROUND = {2: [58, 59, 61, 62, 63, 65, 66], 127: [p for p in EVERY if p not in (60, 64)]}


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ({}, {-1: EVERY}),
        ({"notes_mode": "strict"}, {-1: EVERY}),
        ({"notes": []}, {-1: EVERY}),
        ({"notes": [], "notes_width": 127}, {-1: EVERY}),
        ({"notes": [], "notes_mode": "strict"}, {0: EVERY}),
        ({"notes": [60, 64, 64]}, {-1: [p for p in EVERY if p not in (60, 64)], 3: [60, 64]}),
        (
            {"notes": [60, 64], "notes_mode": "strict"},
            {0: [p for p in EVERY if p not in (60, 64)], 3: [60, 64]},
        ),
        (
            {"notes": [60, 64], "notes_width": 2},
            {-1: [p for p in EVERY if not 58 <= p <= 66], 0: AROUND[2], 3: [60, 64]},
        ),
        ({"notes": [60, 64], "notes_width": 127}, {0: AROUND[127], 3: [60, 64]}),
        ({"notes": [0, 127], "notes_width": 1}, {-1: EVERY[2:-2], 0: [1, 126], 3: [0, 127]}),
    ],
)
def test_notes(controls: dict[str, Any], expected: dict[int, list[int]]) -> None:
    assert states(**controls) == expected


def test_guidance_is_upstreams() -> None:
    scales = {"musiccoca": 5.2, "notes": -1.0, "drums": 6.0}
    made = row(guidance=5.2, notes_guidance=-1.0, drums_guidance=6.0)
    np.testing.assert_array_equal(made, upstreams({STYLE_KEY: STYLE}, scales))


@pytest.mark.parametrize("value", [*np.arange(-2, 6.01, 0.05).tolist(), -1e9, 0.1 + 0.2, 6.8])
def test_guidance_bins_are_upstreams(value: float) -> None:
    fine, coarse = upstream.CFG_CONDITIONING_MUSICCOCA_NOTES, upstream.CFG_CONDITIONING_DRUMS
    style, notes, drums = (
        system.discretize_cfg(value, config.step, config.codebook_size - 1)
        for config in (fine, fine, coarse)
    )
    last = round((HIGHEST_DRUMS_GUIDANCE - LOWEST_GUIDANCE) / coarse.step)
    assert guidance_bins(value, value, value) == [style, notes, min(drums, last)]


@pytest.mark.parametrize(
    ("style", "notes", "drums"),
    [
        (LOWEST_GUIDANCE, LOWEST_GUIDANCE, LOWEST_GUIDANCE),
        (HIGHEST_GUIDANCE, HIGHEST_GUIDANCE, HIGHEST_DRUMS_GUIDANCE),
        (1e9, 1e9, 1e9),
        (-1e9, -1e9, -1e9),
        (7.0, 7.0, 7.0),
    ],
)
@pytest.mark.parametrize("name", ["mrt2_small", "mrt2_base"])
def test_each_token_reads_a_row_of_its_own_channel(
    name: str, style: float, notes: float, drums: float
) -> None:
    """Embeddings of all channels lie in one table, and nothing stops one from reading another's."""
    tokens = assemble(STYLE[None], [3] * 128, 1, guidance_bins(style, notes, drums))[0, 12:]
    first, last = blocks(name)
    read = tokens + first
    assert (read >= first + TOKEN_OFFSET).all()
    assert (read <= last).all()


def test_the_ceilings_are_the_last_rows_of_their_channels() -> None:
    bins = guidance_bins(HIGHEST_GUIDANCE, HIGHEST_GUIDANCE, HIGHEST_DRUMS_GUIDANCE)
    first, last = blocks("mrt2_small")
    assert (first[-3:] + np.array(bins) + TOKEN_OFFSET).tolist() == last[-3:].tolist()
    # What upstream reads for a guidance of 7 belongs to the channel after.
    sevens = [system.discretize_cfg(7.0, step, top) for step, top in ((0.2, 40), (1.0, 8))]
    assert first[-3] + sevens[0] + TOKEN_OFFSET == first[-2]
    assert first[-1] + sevens[1] + TOKEN_OFFSET == last[-1] + 1


def blocks(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last embedding of each channel but the style's, int [132]."""
    configs = MODEL_REGISTRY[name]().input_configs[1:]
    sizes = np.repeat(
        [config.per_rvq_vocab_size for config in configs],
        [config.rvq_truncation_level for config in configs],
    )
    ends = np.cumsum(sizes)
    return ends - sizes, ends - 1


@pytest.mark.parametrize(
    ("style", "notes"),
    [(STYLE[None, :11], CHORD), (STYLE, CHORD), (STYLE[None], CHORD[:127])],
)
def test_parts_of_another_length_are_refused(style: Any, notes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"expected \[T, 12\] style tokens and \[T, 128\] notes"):
        assemble(style, notes, -1, BINS)
