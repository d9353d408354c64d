"""The music that the demo learns from: exact labels, repeatable sound, and words that are true."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from tools.demo_model import measures, vocabulary
from tools.demo_model.music import captions, keyboard, kits, synth
from tools.demo_model.music.families import FAMILIES
from tools.demo_model.music.grooves import FILLS, GROOVES
from tools.demo_model.music.harmony import SCALES
from tools.demo_model.music.piece import Piece, Style, caption, compose
from tools.demo_model.music.presets import PRESETS
from tools.demo_model.music.styles import StyleHint, draw
from tools.demo_model.music.words import PHRASES, WORDS

pytestmark = pytest.mark.tools

FRAMES = 100  # 4 s
SEEDS = range(4)
STYLES_DRAWN = 2_000
PROMPTS = ("drums only", "soft ambient pad", "deep bass", "bright lead", "warm pad")


def of_family(name: str, seed: int = 0, **factors: object) -> Style:
    style = draw(np.random.default_rng(seed), StyleHint((name,)))
    return dataclasses.replace(style, **factors)


@pytest.fixture(scope="module")
def styles() -> list[Style]:
    rng = np.random.default_rng(0)
    return [draw(rng) for _ in range(STYLES_DRAWN)]


@pytest.fixture(scope="module")
def prompted() -> dict[str, list[Piece]]:
    """A few pieces for each of the prompts that the model is tested with."""
    return {
        prompt: [
            compose(seed, FRAMES, draw(np.random.default_rng(seed), WORDS[prompt]))
            for seed in SEEDS
        ]
        for prompt in PROMPTS
    }


def median(pieces: list[Piece], measure: Callable[[np.ndarray], float]) -> float:
    return statistics.median(measure(piece.samples) for piece in pieces)


def test_a_piece_has_the_promised_shapes() -> None:
    piece = compose(0, FRAMES)
    assert (piece.samples.shape, piece.samples.dtype) == ((FRAMES * 1_920, 2), np.float32)
    assert (piece.notes.shape, piece.notes.dtype) == ((FRAMES, 128), np.int8)
    assert (piece.drums.shape, piece.drums.dtype) == ((FRAMES,), np.int8)
    assert (piece.drumming.shape, piece.drumming.dtype) == ((FRAMES,), np.int8)
    assert set(np.unique(piece.notes)) <= {0, 1, 2}
    assert np.max(np.abs(piece.samples)) < 1


def test_a_seed_is_a_piece_and_a_shorter_one_is_its_beginning() -> None:
    for seed in SEEDS:
        short, long = compose(seed, 60), compose(seed, 130)
        assert short.style == long.style
        for field in ("samples", "notes", "drums", "drumming"):
            part = getattr(long, field)[: len(getattr(short, field))]
            np.testing.assert_array_equal(getattr(short, field), part)
    assert not np.array_equal(compose(0, 60).samples, compose(1, 60).samples)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_sounds_at_a_sane_level(family: str) -> None:
    samples = compose(1, FRAMES, of_family(family)).samples
    assert np.all(np.isfinite(samples))
    assert -36 < measures.loudness_dbfs(samples, FRAMES / 25)[0] < -12


def test_pieces_are_about_20_db_below_full_scale() -> None:
    power = [np.mean(np.square(compose(seed, FRAMES).samples)) for seed in range(40)]
    assert -22 < 10 * np.log10(np.mean(power)) < -17


def test_a_note_is_the_same_however_long_it_is_held() -> None:
    for name in PRESETS:
        short, long = (synth.note(name, 52, 1, frames) for frames in (4, 40))
        np.testing.assert_array_equal(short[: 4 * 1_920], long[: 4 * 1_920])


def test_a_held_note_repeats_after_eight_frames_and_is_in_tune() -> None:
    for pitch in range(28, 97):
        exact = 440 * 2 ** ((pitch - 69) / 12)
        assert abs(1_200 * np.log2(synth.frequency(pitch) / exact)) < 10
    sound = synth.note("organ", 69, 1, 60)
    first, second = sound[40 * 1_920 : 41 * 1_920], sound[48 * 1_920 : 49 * 1_920]
    assert np.max(np.abs(first - second)) < 0.01 * np.max(np.abs(first))


def test_a_drum_sounds_the_same_at_each_stroke() -> None:
    for kit, drums in kits.KITS.items():
        assert set(drums) == set(kits.DRUMS)
        for drum in drums:
            loud, soft = kits.hit(kit, drum, 2), kits.hit(kit, drum, 0)
            np.testing.assert_allclose(soft, loud * synth.VELOCITY_GAIN[0], atol=1e-6)
            assert np.max(np.abs(loud[-48:])) < 0.01  # it ends in silence, not in a click


def test_grooves_fill_their_bars() -> None:
    for name, patterns in GROOVES.items():
        steps = 12 if name == "waltz" else 16
        assert all(len(lane) == steps for pattern in patterns for lane in pattern.values())
        assert all(set(pattern) <= set(kits.DRUMS) for pattern in patterns)
    assert all(len(lane) == 16 for fill in FILLS for lane in fill.values())


def test_notes_are_where_the_labels_say() -> None:
    style = of_family("held notes", lead="organ", space="dry", register=0)
    piece = compose(3, FRAMES, style)
    heard = measures.pitch_classes(piece.samples)
    named = np.argmax(piece.notes > 0, axis=1) % 12
    assert np.all(np.sum(piece.notes > 0, axis=1) == 1)
    assert np.mean(heard == named) > 0.95


def test_an_onset_label_is_where_the_sound_begins() -> None:
    style = of_family("lead solo", lead="square", space="dry", density=0, dynamics=1)
    piece = compose(2, FRAMES, style)
    first = int(np.argmax(np.any(piece.notes == 2, axis=1)))
    level = np.max(np.abs(piece.samples), axis=1)
    assert int(np.argmax(level > 1e-3)) // 1_920 == first
    for pitch in np.flatnonzero(np.any(piece.notes > 0, axis=0)):
        lane = piece.notes[:, pitch]
        begins = (lane > 0) & (np.concatenate([[0], lane[:-1]]) == 0)
        assert np.all(lane[begins] == 2)  # nothing is sustained that never began


def test_by_hand_only_the_keys_that_are_held_sound() -> None:
    style = of_family("pads only")
    by_hand, usual = compose(5, 900, style, by_hand=True), compose(5, 900, style)
    at_once = (by_hand.notes > 0).sum(axis=1)
    assert np.mean(at_once == 1) > 0.3
    assert at_once.max() <= 4
    assert (by_hand.notes != usual.notes).any()
    scale = {(style.key + step) % 12 for step in SCALES[style.scale]}
    assert set(np.flatnonzero((by_hand.notes > 0).any(axis=0)) % 12) - scale  # it knows no key
    classes = measures.pitch_classes(by_hand.samples)
    alone = (at_once == 1) & (classes >= 0)
    assert np.mean(classes[alone] == by_hand.notes.argmax(axis=1)[alone] % 12) > 0.8


def test_by_hand_what_fades_is_struck_again() -> None:
    held = compose(6, 400, of_family("piano solo"), by_hand=True)
    onsets = np.flatnonzero((held.notes == 2).any(axis=1))
    beat = 4 * held.style.sixteenth_frames
    assert np.diff(onsets).max() <= 2 * beat + keyboard.LONGEST_REST_FRAMES


def test_drum_labels_are_the_strokes_on_the_frame_grid() -> None:
    piece = compose(0, FRAMES, of_family("drums only", groove="rock", sixteenth_frames=3))
    struck = np.flatnonzero(piece.drums)
    level = np.abs(piece.samples[::, 0]).reshape(FRAMES, -1)
    assert 8 < len(struck) < FRAMES // 2
    assert np.all(level[struck, :480].max(axis=1) > 0.003)  # within 10 ms of the frame's start
    assert np.all(piece.drumming == 1)
    assert not piece.notes.any()


def test_without_a_kit_there_are_no_drums() -> None:
    piece = compose(0, FRAMES, of_family("piano solo"))
    assert not piece.drums.any()
    assert not piece.drumming.any()


def test_drums_only_strikes_often_and_a_soft_ambient_pad_does_not(
    prompted: dict[str, list[Piece]],
) -> None:
    drums, pad = prompted["drums only"], prompted["soft ambient pad"]
    assert median(drums, measures.onsets_per_s) > 4 * median(pad, measures.onsets_per_s)
    assert median(drums, measures.tonal_share) < 0.6 * median(pad, measures.tonal_share)


def test_deep_bass_is_low(prompted: dict[str, list[Piece]]) -> None:
    for piece in prompted["deep bass"]:
        assert measures.share_below(piece.samples, 200) > 0.8


def test_a_bright_lead_is_brighter_than_a_warm_pad(prompted: dict[str, list[Piece]]) -> None:
    lead = [measures.centroid_hz(piece.samples) for piece in prompted["bright lead"]]
    pad = [measures.centroid_hz(piece.samples) for piece in prompted["warm pad"]]
    assert min(lead) > 2 * max(pad)


def test_every_word_of_the_vocabulary_means_something(styles: list[Style]) -> None:
    named = vocabulary.GENRES + vocabulary.INSTRUMENTS + vocabulary.MOODS
    assert set(named.split()) - set(WORDS) == {"and"}
    for word, hint in WORDS.items():
        assert any(hint.matches(style) for style in styles), word


def test_a_style_drawn_for_a_word_is_what_it_means() -> None:
    rng = np.random.default_rng(0)
    wrong = [word for word, hint in WORDS.items() if not hint.matches(draw(rng, hint))]
    assert len(wrong) < 0.01 * len(WORDS)


def test_captions_vary_and_repeat_with_their_generator(styles: list[Style]) -> None:
    style = styles[0]
    texts = {caption(style, np.random.default_rng(seed)) for seed in range(50)}
    assert len(texts) > 25
    assert caption(style, np.random.default_rng(7)) == caption(style, np.random.default_rng(7))


def test_captions_say_nothing_untrue(styles: list[Style]) -> None:
    rng = np.random.default_rng(0)
    for style in styles:
        text = caption(style, rng)
        assert text == text.strip() != ""
        for prompt in PROMPTS[:2]:
            assert prompt not in text or PHRASES[prompt].matches(style), (text, style)
        if style.kit:
            assert "no drums" not in text
        if "in major" in text:
            assert style.scale == "major"


def test_the_prompts_of_the_models_tests_are_among_the_captions(styles: list[Style]) -> None:
    rng = np.random.default_rng(0)
    texts = [caption(style, rng) for style in styles]
    for prompt in PROMPTS:
        assert any(text.startswith(prompt) for text in texts), prompt


def test_described_gives_rare_words_their_share() -> None:
    rng = np.random.default_rng(0)
    pairs = [captions.described(rng) for _ in range(100)]
    assert sum(any(word in text for word in WORDS) for text, _ in pairs) == 100
