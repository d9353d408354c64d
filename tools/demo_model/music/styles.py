"""Style: every factor of a piece's sound, and how one is drawn.

Invariant: a Style says all that the music and its caption depend on beside the seed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from tools.demo_model.music.families import ANY_GROOVE, FAMILIES, Options
from tools.demo_model.music.harmony import PROGRESSIONS
from tools.demo_model.music.presets import PRESETS

FRAMES_PER_MINUTE = 1_500
BRIGHT = 0.34  # from here on a sound is called bright, and from its negative on dark
TRIES = 40


@dataclass(frozen=True)
class Style:
    """One way to sound.

    Attributes:
      family: A key of FAMILIES.
      sixteenth_frames: 2, 3, 4 or 5 frames of 40 ms: 187.5, 125, 93.75 or 75 BPM.
      beats: Of a bar: 4 or 3.
      key: Pitch class of the tonic; 0 is C.
      scale: "major", "minor", "dorian" or "pentatonic".
      progression: Degrees of the scale, a chord each.
      chords: "triads", "sevenths", "fifths" or "open".
      kit: Of drums; None for no drums.
      groove: Of drums; None for no drums.
      bass: Its preset; None for no bass.
      line: How the bass moves.
      pad: Its preset; None for no pad.
      keys: Preset of chords and broken chords; None for none.
      figure: What the keys play.
      lead: Preset of the melody; None for none.
      register: -1 low, 0 middle, 1 high: the octave of keys and lead.
      density: 0 sparse, 1 medium, 2 busy: notes of melodies, strokes of hats.
      dynamics: 0 soft, 1 medium, 2 loud: the velocity class around which all is played.
      swing: "straight", "eighths" or "sixteenths".
      space: "dry", "room" or "echo".
    """

    family: str
    sixteenth_frames: int
    beats: int
    key: int
    scale: str
    progression: tuple[int, ...]
    chords: str
    kit: str | None
    groove: str | None
    bass: str | None
    line: str
    pad: str | None
    keys: str | None
    figure: str
    lead: str | None
    register: int
    density: int
    dynamics: int
    swing: str
    space: str

    @property
    def bpm(self) -> float:
        """Beats a minute, as played; trap and the like feel half of it or double."""
        return FRAMES_PER_MINUTE / (4 * self.sixteenth_frames)

    @property
    def bar_frames(self) -> int:
        """Frames of a bar."""
        return 4 * self.beats * self.sixteenth_frames

    @property
    def parts(self) -> tuple[str, ...]:
        """The tonal parts that play: some of "bass", "pad", "keys", "lead"."""
        return tuple(part for part in ("bass", "pad", "keys", "lead") if getattr(self, part))

    @property
    def brightness(self) -> float:
        """-1 dark to 1 bright: the mean over the tonal parts, register counted in."""
        levels = [PRESETS[getattr(self, part)].brightness for part in self.parts]
        if not levels:
            return {"electronic": 0.4, "acoustic": 0.2, "soft": -0.6}[self.kit or "soft"]
        shift = 0.4 * self.register if self.keys or self.lead else 0.0
        return float(np.clip(np.mean(levels) + shift, -1, 1))

    @property
    def tone(self) -> int:
        """-1 dark, 0 between, 1 bright."""
        return int(self.brightness >= BRIGHT) - int(self.brightness <= -BRIGHT)

    def audible(self, factor: str) -> bool:
        """Whether a factor makes a difference here: drums alone have no scale."""
        needs = {
            "scale": self.parts,
            "chords": self.pad or self.keys,
            "line": self.bass,
            "figure": self.keys,
            "register": self.keys or self.lead,
            "density": self.kit or self.keys or self.lead,
        }
        return bool(needs.get(factor, True))


@dataclass(frozen=True)
class StyleHint:
    """What a word means: the families it may be, and the values that factors may have.

    Attributes:
      families: Keys of FAMILIES; empty for any.
      where: (field or property of Style, allowed values) pairs.
    """

    families: tuple[str, ...] = ()
    where: tuple[tuple[str, Options], ...] = ()

    def matches(self, style: Style) -> bool:
        """Whether the word describes the style."""
        named = not self.families or style.family in self.families
        return named and all(
            style.audible(factor) and getattr(style, factor) in values
            for factor, values in self.where
        )


def draw(rng: np.random.Generator, hint: StyleHint | None = None) -> Style:
    """A style of any family, or one that a word describes."""
    hint = hint or StyleHint()
    for _ in range(TRIES):
        style = _free(rng, hint.families or tuple(FAMILIES))
        if hint.matches(style):
            return style
    # The word asks for what no family does by itself: its factors are set.
    settable = {field.name for field in dataclasses.fields(Style)}
    changes = {
        field: values[int(rng.integers(len(values)))]
        for field, values in hint.where
        if field in settable and getattr(style, field) not in values
    }
    style = dataclasses.replace(style, **changes)
    return dataclasses.replace(style, groove=_groove(style, rng))


def _free(rng: np.random.Generator, names: tuple[str, ...]) -> Style:
    weights = np.array([FAMILIES[name].weight for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    family = FAMILIES[name]

    def one(options: Options) -> Any:
        return options[int(rng.integers(len(options)))]

    scale = one(family.scale)
    style = Style(
        family=name,
        sixteenth_frames=one(family.tempo),
        beats=one(family.beats),
        key=int(rng.integers(12)),
        scale=scale,
        progression=one(family.progression or PROGRESSIONS[scale]),
        chords=one(family.chords),
        kit=one(family.kit),
        groove=one(family.groove),
        bass=one(family.bass),
        line=one(family.line),
        pad=one(family.pad),
        keys=one(family.keys),
        figure=one(family.figure),
        lead=one(family.lead),
        register=one(family.register),
        density=one(family.density),
        dynamics=one(family.dynamics),
        swing=one(family.swing),
        space=one(family.space),
    )
    if style.swing == "sixteenths" and style.sixteenth_frames == 2:
        style = dataclasses.replace(style, swing="straight")  # no frame between to be late by
    return dataclasses.replace(style, groove=_groove(style, rng))


def _groove(style: Style, rng: np.random.Generator) -> str | None:
    """The style's own, or one that suits: none without drums, one alone in three."""
    if not style.kit:
        return None
    if style.beats == 3:
        return "waltz"
    return style.groove or ANY_GROOVE[int(rng.integers(len(ANY_GROOVE)))]
