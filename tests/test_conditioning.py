"""The vector that a frame is conditioned on, against the one that upstream makes."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from magenta_rt import config as upstream
from magenta_rt.jax import system
from magenta_rt.jax.model import MODEL_REGISTRY

from magenta_bento.conditioning import (
    GUIDANCE_RANGE,
    SIZE,
    Controls,
    Guidance,
    build,
)

STYLE = np.arange(12, dtype=np.int32) * 80
CHORD = tuple(2 if pitch in (60, 64, 67) else 0 for pitch in range(128))


def upstreams(
    conditioning: dict[str, Any], guidance: dict[str, float] | None = None
) -> np.ndarray[Any, Any]:
    """What ``MagentaRT2System`` would read, told from its method without loading its weights."""
    model = MODEL_REGISTRY.get("mrt2_small")()
    stub = SimpleNamespace(
        cfg_scales=guidance or {"musiccoca": 3.0, "notes": 1.0, "drums": 1.0},
        temperature=1.3,
        top_k=40,
        _model=model,
    )
    block, _ = system.MagentaRT2System._build_conditioning(stub, conditioning)
    return np.asarray(block.values).reshape(-1)


STYLE_KEY = upstream.MUSICCOCA.key
NOTES_KEY = upstream.PIANOROLL_WITH_ONSETS.key
DRUMS_KEY = "drum_pianoroll_tokens"
CASES = {
    "nothing but style": ({STYLE_KEY: STYLE}, Controls()),
    "notes": ({STYLE_KEY: STYLE, NOTES_KEY: CHORD}, Controls(notes=CHORD)),
    "no drums": ({STYLE_KEY: STYLE, DRUMS_KEY: [0]}, Controls(drums=0)),
    "all": (
        {STYLE_KEY: STYLE, NOTES_KEY: [3] * 128, DRUMS_KEY: [1]},
        Controls(notes=(3,) * 128, drums=1),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_layout_is_upstreams(case: str) -> None:
    theirs, ours = CASES[case]
    made = build(STYLE, ours).tokens
    assert made.dtype == np.int32
    assert made.shape == (SIZE,) == (144,)
    np.testing.assert_array_equal(made, upstreams(theirs))


def test_style_may_be_left_out() -> None:
    none = np.full(12, -1, np.int32)
    np.testing.assert_array_equal(build(none).tokens, upstreams({}))


def test_guidance_is_upstreams() -> None:
    scales = {"musiccoca": 5.2, "notes": -1.0, "drums": 7.0}
    made = build(STYLE, Controls(Guidance(style=5.2, notes=-1.0, drums=7.0))).tokens
    np.testing.assert_array_equal(made, upstreams({STYLE_KEY: STYLE}, scales))


@pytest.mark.parametrize("value", [*np.arange(-2, 8.01, 0.05).tolist(), -1e9, 1e9, 0.1 + 0.2])
def test_guidance_bins_are_upstreams(value: float) -> None:
    fine, coarse = upstream.CFG_CONDITIONING_MUSICCOCA_NOTES, upstream.CFG_CONDITIONING_DRUMS
    expected = [
        system.discretize_cfg(value, config.step, config.codebook_size - 1)
        for config in (fine, fine, coarse)
    ]
    assert Guidance(value, value, value).bins() == expected


def test_the_range_of_guidance_has_41_and_9_bins() -> None:
    low, high = GUIDANCE_RANGE
    assert Guidance(low, low, low).bins() == [0, 0, 0]
    assert Guidance(high, high, high).bins() == [40, 40, 8]


def test_defaults_are_upstreams() -> None:
    theirs = inspect.signature(system.MagentaRT2System).parameters
    made = build(STYLE)
    assert made.temperature == theirs["temperature"].default
    assert made.top_k == theirs["top_k"].default


@pytest.mark.parametrize(
    ("style", "notes"), [(STYLE[:11], CHORD), (np.append(STYLE, 1), CHORD), (STYLE, CHORD[:127])]
)
def test_parts_of_another_length_are_refused(style: Any, notes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 12 style tokens and 128 notes"):
        build(style, Controls(notes=notes))


def test_a_conditioning_cant_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        build(STYLE).tokens[0] = 1
