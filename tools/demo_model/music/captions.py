"""Text descriptions of styles, in varied words.

A caption says a few true things about a style: its name, what plays, mood, tempo, tone. What is
true follows from the style's factors and from the hints of :mod:`words`.

Invariant: a caption says nothing that its style is not, and depends on style and generator alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from tools.demo_model.music import words
from tools.demo_model.music.styles import Style, StyleHint, draw

PRESET_WORDS: Mapping[str, tuple[str, ...]] = {
    "sub": ("sub bass", "deep bass", "bass"),
    "upright": ("upright bass", "double bass", "warm bass", "bass"),
    "finger": ("bass guitar", "electric bass", "bass"),
    "saw bass": ("synth bass", "gritty bass", "moog bass"),
    "warm": ("warm pad", "warm synth pad", "dark pad", "soft synth"),
    "strings": ("strings", "string section", "lush strings"),
    "choir": ("choir", "voices", "choir pad"),
    "glass": ("glassy pad", "shimmering pad", "airy pad", "bright pad"),
    "piano": ("piano", "grand piano"),
    "electric piano": ("electric piano", "rhodes", "mellow keys"),
    "guitar": ("guitar", "acoustic guitar", "plucked guitar"),
    "mallet": ("bells", "marimba", "vibraphone", "kalimba"),
    "organ": ("organ", "hammond organ"),
    "saw lead": ("bright synth lead", "saw lead", "synth lead", "bright lead"),
    "square": ("square lead", "bright lead", "8-bit lead", "synth lead"),
    "flute": ("flute", "soft flute"),
    "brass": ("brass", "trumpet", "horn", "saxophone"),
    "overdrive": ("distorted guitar", "electric guitar", "guitar solo"),
}
KIT_WORDS: Mapping[str, tuple[str, ...]] = {
    "electronic": ("drum machine", "electronic drums", "drums", "808 drums"),
    "acoustic": ("drums", "drum kit", "acoustic drums", "live drums"),
    "soft": ("soft drums", "brushed drums", "dusty drums", "light percussion"),
}
TEMPO_WORDS: Mapping[int, tuple[str, ...]] = {
    2: ("fast", "very fast", "uptempo"),
    3: ("upbeat", "medium tempo", "moderately fast"),
    4: ("mid-tempo", "unhurried", "walking pace"),
    5: ("slow", "slow tempo", "very slow"),
}
# Beats a minute that people would ask for and get the grid's nearest.
BPM_RANGES: Mapping[int, tuple[int, int]] = {
    2: (156, 200),
    3: (108, 150),
    4: (85, 107),
    5: (60, 84),
}
TONE_WORDS = {-1: ("dark", "warm", "mellow", "muted"), 0: (), 1: ("bright", "brilliant", "crisp")}
DENSITY_WORDS = {-1: ("sustained",), 0: ("sparse", "simple"), 1: (), 2: ("busy", "dense")}
DYNAMICS_WORDS = {0: ("soft", "quiet", "gentle"), 1: (), 2: ("loud", "powerful", "energetic")}
SPACE_WORDS = {"dry": ("dry",), "room": ("reverberant", "spacious"), "echo": ("echo", "with delay")}

SINGLE = (("bass",), ("pad",), ("keys",), ("lead",))
BARE = 0.4  # chance that a caption is one phrase alone
MOST_DETAILS = 4


def caption(style: Style, rng: np.random.Generator) -> str:
    """A description of the style, in words that vary with the generator."""
    name = _name(style, rng)
    if rng.random() < BARE:
        return name
    return _around(name, style, rng)


def described(rng: np.random.Generator) -> tuple[str, Style]:
    """A caption and a style for it, such that every word of WORDS is as likely as another."""
    everything = tuple(words.WORDS)
    word = _one(everything, rng)
    style = draw(rng, words.WORDS[word])
    if rng.random() < BARE:
        return word, style
    return _around(word, style, rng), style


def _name(style: Style, rng: np.random.Generator) -> str:
    """What the style is, in one phrase that can stand alone."""
    telling = _matching(style, telling=True)
    if telling and rng.random() < 0.65:
        return _one(telling, rng)
    return style.family


def _around(name: str, style: Style, rng: np.random.Generator) -> str:
    """The phrase with some of the details that are true beside it."""
    details = _details(style, rng)
    count = int(rng.integers(1, MOST_DETAILS + 1))
    order = rng.permutation(len(details))[:count]
    moods = [details[i][1] for i in order if details[i][0] == "mood"]
    played = [details[i][1] for i in order if details[i][0] == "instrument"]
    others = [details[i][1] for i in order if details[i][0] == "other"]
    shape = rng.random()
    text = name
    if moods and shape < 0.7:
        text = f"{moods.pop()} {text}"
    if shape < 0.2:
        text = f"a {text} track" if shape < 0.1 else f"{text} music"
    if played and shape < 0.6:
        text = f"{text} with {' and '.join(played)}"
        played = []
    return ", ".join([text, *moods, *played, *others])


def _details(style: Style, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(kind, phrase) of all that could be said, each drawn from its synonyms."""
    details = [("instrument", _one(PRESET_WORDS[getattr(style, p)], rng)) for p in style.parts]
    if style.kit:
        details.append(("instrument", _one(KIT_WORDS[style.kit], rng)))
    elif rng.random() < 0.5:
        details.append(("other", _one(("no drums", "without drums", "beatless"), rng)))
    if style.parts in SINGLE and not style.kit:
        details = details[1:]  # the name says it
    low, high = BPM_RANGES[style.sixteenth_frames]
    bpm = round(style.bpm) if rng.random() < 0.5 else int(rng.integers(low, high + 1))
    details.append(("other", f"{bpm} bpm" if rng.random() < 0.8 else f"at {bpm} beats per minute"))
    moods = _matching(style, telling=False)
    for _ in range(2):
        if moods:
            details.append(("mood", _one(moods, rng)))
    details.append(("mood", _one(TEMPO_WORDS[style.sixteenth_frames], rng)))
    for factor, synonyms in (
        ("tone", TONE_WORDS[style.tone]),
        ("density", DENSITY_WORDS[style.density]),
        ("dynamics", DYNAMICS_WORDS[style.dynamics]),
        ("space", SPACE_WORDS[style.space]),
    ):
        if synonyms and style.audible(factor):
            kind = "other" if factor == "space" else "mood"
            details.append((kind, _one(synonyms, rng)))
    if style.parts and style.scale in ("major", "minor") and rng.random() < 0.3:
        details.append(("other", f"in {style.scale}"))
    return details


@functools.lru_cache(maxsize=4_096)
def _matching(style: Style, telling: bool) -> Sequence[str]:
    """Words that describe the style: those that tell what it is, or moods."""

    def those(table: Mapping[str, StyleHint]) -> list[str]:
        return [word for word, hint in table.items() if hint.matches(style)]

    if not telling:
        return tuple(those(words.MOODS))
    # A word that leaves the family open cannot stand for it.
    phrases = [word for word in those(words.PHRASES) if words.PHRASES[word].families]
    named = those(words.GENRES) + those(words.INSTRUMENTS)
    # Phrases are few and the demo's own prompts are among them: they count three times.
    return tuple(named + 3 * phrases)


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
