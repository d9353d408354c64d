"""What bass, pad and keys play in one bar.

Invariant: a bar's events depend on the bar alone, so a longer piece begins as a shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tools.demo_model.music import harmony
from tools.demo_model.music.presets import PRESETS
from tools.demo_model.music.styles import Style

BASS_LOW = 28  # E1, 41 Hz
PAD_LOW = 53
KEYS_LOW = 55
LEAD_LOW = 64
HELD_BARS = 4  # a chord that stays is struck again after so many


@dataclass(frozen=True)
class Event:
    """A note: it starts at a frame of the piece and is held for some frames."""

    part: str
    preset: str
    frame: int
    pitch: int
    velocity: int
    frames: int


@dataclass(frozen=True, eq=False)
class Bar:
    """One bar of a piece, as the parts see it.

    Attributes:
      style: Of the piece.
      index: Bars since the beginning.
      degree: Of this bar's chord.
      next_degree: Of the next bar's.
      chord_bars: For how long this bar's chord stays, itself counted; 0 if it began earlier.
      figure: int, drawn once a piece: which of the rhythms of a figure.
      rng: Of this bar and part.
    """

    style: Style
    index: int
    degree: int
    next_degree: int
    chord_bars: int
    figure: int
    rng: np.random.Generator

    @property
    def steps(self) -> int:
        """Sixteenths in the bar."""
        return 4 * self.style.beats

    def frame(self, step: int) -> int:
        """The frame at which a sixteenth is played, swing counted in."""
        grid = self.style.sixteenth_frames
        late = 0
        if self.style.swing == "eighths" and step % 4 >= 2:
            late = round(2 * grid / 3)
        elif self.style.swing == "sixteenths" and step % 2 and grid > 2:
            late = 1
        return self.index * self.style.bar_frames + step * grid + late

    def tone(self, degree: int, low: int) -> int:
        """The pitch of a degree of the scale from `low` up."""
        return harmony.pitch(self.style.key, self.style.scale, degree, low)

    def chord(self, low: int) -> list[int]:
        """This bar's chord from `low` up."""
        style = self.style
        return harmony.chord(style.key, style.scale, self.degree, style.chords, low)

    def note(
        self, part: str, step: int, steps: float, pitch: int, accent: int = 0, bars: int = 0
    ) -> Event:
        """A note of `steps` sixteenths, or of whole bars."""
        preset = getattr(self.style, part)
        sound = PRESETS[preset]
        start = self.frame(step)
        frames = round(steps * self.style.sixteenth_frames) + bars * self.style.bar_frames
        velocity = int(np.clip(self.style.dynamics + accent, 0, 2))
        pitch = harmony.fold(pitch, sound.lowest, sound.highest)
        return Event(part, preset, start, pitch, velocity, max(1, frames))


# ---- bass: (sixteenth, length, what), what is r root, f fifth, o octave, s seventh, t third
LINES: Mapping[str, tuple[str, ...]] = {
    "roots": ("0r7 8r6", "0r10 10r2 12f3", "0r6 6r2 8r6"),
    "long": ("0r16",),
    "eighths": ("0r2 2r2 4r2 6r2 8r2 10r2 12r2 14r2", "0r2 2r2 4r2 6r2 8r2 10r2 12r2 14f2"),
    "sixteenths": (
        "0r1 2r1 3r1 4r1 6r1 7o1 8r1 10r1 11r1 12r1 14o1 15s1",
        "1r1 2r1 3o1 5r1 6r1 7r1 9r1 10r1 11o1 13r1 14s1 15r1",
    ),
    "offbeat": ("2r2 6r2 10r2 14r2", "2r2 6r2 10r2 13r1 14o2"),
    "octaves": ("0r2 2o1 4r2 6o1 8r2 10o1 12r2 14o1", "0r2 2o1 4r1 6o1 8f2 10o1 12r2 14o1"),
    "funk": ("0r2 3o1 6s1 7r2 10r2 14f1 15s1", "0r3 3r1 6o1 8r1 11f1 12s1 14o1"),
    "dub": ("0r5 6r2 8f3 11r4", "0r3 3r3 8o2 10f4", "0r6 8r2 10s2 12f3"),
    "tumbao": ("0r5 6f5 12r4", "0r5 6f2 8f5 14r2"),
}


def bass(bar: Bar) -> list[Event]:
    """The bass line's notes."""
    line = bar.style.line
    root = bar.tone(bar.degree, BASS_LOW)
    fifth = bar.tone(bar.degree + 4, root)
    if line == "drone":
        if bar.index % HELD_BARS:
            return []
        return [bar.note("bass", 0, 0, root, bars=HELD_BARS)]
    if line == "walking":
        goal = harmony.nearest(root, [bar.tone(bar.next_degree, BASS_LOW)])
        middle = [bar.tone(bar.degree + third, root) for third in (2, 4)]
        if bar.rng.random() < 0.4:
            middle.reverse()
        approach = goal + (1 if bar.rng.random() < 0.5 else -1)
        tones = [root, *middle, approach][: bar.style.beats]
        return [bar.note("bass", 4 * beat, 3.5, tone) for beat, tone in enumerate(tones)]
    tones_of = {
        "r": root,
        "f": fifth,
        "o": root + 12,
        "s": bar.tone(bar.degree + 6, root),
        "t": bar.tone(bar.degree + 2, root),
    }
    rhythms = LINES[line]
    events = []
    for word in rhythms[bar.figure % len(rhythms)].split():
        name = next(letter for letter in word if letter.isalpha())
        step, steps = (int(number) for number in word.split(name))
        if step < bar.steps:
            steps = min(steps, bar.steps - step)
            accent = 1 if step == 0 and line != "long" else 0
            events.append(bar.note("bass", step, steps, tones_of[name], accent))
    return events


def pad(bar: Bar) -> list[Event]:
    """The chord, held for as long as it stays."""
    if not bar.chord_bars:
        return []
    low = PAD_LOW + (12 if bar.style.pad == "glass" else 0)
    pitches = bar.chord(low)
    if not bar.style.bass:
        pitches = [bar.tone(bar.degree, low - 12), *pitches]
    return [bar.note("pad", 0, 0, pitch, bars=bar.chord_bars) for pitch in pitches]


# ---- keys: where chords are struck, and how long
RHYTHMS: Mapping[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "block": (((0, 15),), ((0, 8), (8, 7)), ((0, 10), (10, 5))),
    "stabs": (
        ((0, 1), (3, 1), (6, 1), (11, 1)), ((3, 1), (6, 2), (11, 1), (14, 1)), ((2, 1), (7, 2)),
    ),
    "offbeat": (((2, 1), (6, 1), (10, 1), (14, 1)),),
    "strum": (
        ((0, 3), (3, 1), (4, 2), (6, 2), (8, 3), (11, 1), (12, 2), (14, 2)),
        ((0, 4), (4, 2), (6, 4), (10, 2), (12, 2), (14, 2)),
        ((2, 1), (3, 1), (6, 1), (10, 1), (11, 1), (14, 1)),
    ),
    "waltz": (((4, 3), (8, 3)),),
    "chug": (
        ((0, 2), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2), (12, 2), (14, 2)),
        ((0, 6), (6, 2), (8, 2), (10, 2), (12, 4)),
        ((0, 1), (2, 1), (3, 1), (4, 2), (6, 1), (8, 1), (10, 1), (11, 1), (12, 4)),
    ),
}  # fmt: skip
COMPING = (((0, 3), (6, 4)), ((2, 2), (10, 4)), ((6, 2), (14, 2)), ((0, 5), (10, 2)), ((4, 6),))
MONTUNO = "x.xx.x.x.xx.x.xx"
TURNS = ((0, 1, 2, 3), (0, 2, 1, 2), (0, 1, 2, 3, 2, 1), (3, 2, 1, 0), (0, 2, 3, 2, 1, 2))


def keys(bar: Bar) -> list[Event]:
    """The chords of the keys, whole or broken."""
    style = bar.style
    low = KEYS_LOW + 12 * style.register
    figure = style.figure
    if figure in _BROKEN:
        return _BROKEN[figure](bar, low)
    if figure == "chug":
        low = 40  # E2: a guitar's lowest string
    pitches = bar.chord(low)
    if figure == "chug":
        pitches = [bar.tone(bar.degree, low), bar.tone(bar.degree + 4, low + 5)]
    if figure == "comp":
        rhythm = COMPING[int(bar.rng.integers(len(COMPING)))]
    else:
        rhythms = RHYTHMS[figure]
        rhythm = rhythms[bar.figure % len(rhythms)]
    events = []
    for step, steps in rhythm:
        if step < bar.steps:
            steps = min(steps, bar.steps - step)
            accent = -1 if step % 4 == 3 else 0
            events += [bar.note("keys", step, steps, pitch, accent) for pitch in pitches]
    if figure == "waltz" and not style.bass:
        events.append(bar.note("keys", 0, 4, bar.tone(bar.degree, low - 19)))
    if figure in ("block", "comp") and not style.bass:
        events.append(bar.note("keys", 0, bar.steps - 1, bar.tone(bar.degree, low - 17)))
    return events


def _drops(bar: Bar, low: int) -> list[Event]:
    pitches = bar.chord(low + 12)
    steps = [step for step in (0, 6, 10) if bar.rng.random() < 0.55]
    return [
        bar.note("keys", step, 6, pitches[int(bar.rng.integers(len(pitches)))]) for step in steps
    ]


def _arpeggio(bar: Bar, low: int) -> list[Event]:
    pitches = bar.chord(low)
    pitches = [*pitches, pitches[0] + 12, pitches[1] + 12][:4]
    fast = bar.style.density >= 1 and bar.style.sixteenth_frames >= 3
    stride = 1 if fast or bar.style.density == 2 else 2
    turn = TURNS[bar.figure % len(TURNS)]
    return [
        bar.note("keys", step, stride, pitches[turn[place % len(turn)]], 0 if step % 4 == 0 else -1)
        for place, step in enumerate(range(0, bar.steps, stride))
    ]


def _ballad(bar: Bar, low: int) -> list[Event]:
    """A broken chord in the left hand, root, fifth, octave, third, and a soft chord above."""
    root = bar.tone(bar.degree, 40)
    fifth, third = bar.tone(bar.degree + 4, root), bar.tone(bar.degree + 2, root + 12)
    broken = (root, fifth, root + 12, third, root + 12, fifth, root + 12, fifth)
    stride = 4 if bar.style.density == 0 else 2
    events = [
        bar.note("keys", step, min(6, bar.steps - step), broken[place], 0 if step == 0 else -1)
        for place, step in enumerate(range(0, bar.steps, stride))
    ]
    if not bar.style.lead or bar.figure % 2:
        events += [bar.note("keys", 0, bar.steps - 2, p, -1) for p in bar.chord(low + 5)[-2:]]
    return events


def _montuno(bar: Bar, low: int) -> list[Event]:
    pitches = bar.chord(low)
    events = []
    for step in range(bar.steps):
        if MONTUNO[step] == "x":
            if step in (0, 3, 7, 12):
                events += [bar.note("keys", step, 1, pitches[-1] + shift, 0) for shift in (0, -12)]
            else:
                events.append(bar.note("keys", step, 1, pitches[step % (len(pitches) - 1)], -1))
    return events


_BROKEN: Mapping[str, Callable[[Bar, int], list[Event]]] = {
    "drops": _drops,
    "arpeggio": _arpeggio,
    "ballad": _ballad,
    "montuno": _montuno,
}
