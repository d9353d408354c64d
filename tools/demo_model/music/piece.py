"""Composes a piece: samples, notes and drums per frame, from a seed.

1. the style is drawn, unless given;
2. bars are written one after the other, each part with its own chance;
3. notes and strokes are summed on three buses, and echo and room, which are linear and so the
   same for each note, are added to two of them;
4. the sum is bent where it would pass full scale, which few samples do.

Invariant: the same seed, style and length give the same piece, and a shorter one is its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.demo_model.music import captions, drumming, keyboard, parts
from tools.demo_model.music.harmony import BLUES
from tools.demo_model.music.kits import hit
from tools.demo_model.music.melody import Melody
from tools.demo_model.music.parts import HELD_BARS, Bar, Event
from tools.demo_model.music.presets import PRESETS
from tools.demo_model.music.styles import Style, draw
from tools.demo_model.music.synth import FRAME_SAMPLES, SAMPLE_RATE_HZ, note

__all__ = ["Piece", "Style", "caption", "compose"]

caption = captions.caption

OFF, SUSTAINED, ONSET = 0, 1, 2
PITCHES = 128

PARTS = {"bass": parts.bass, "pad": parts.pad, "keys": parts.keys}
INTRO_CHANCE, BREAK_CHANCE = 0.3, 0.4  # a break is every other section

# Gains of presets that play a part they were not made for: (their role, the part).
GUEST_GAINS = {("pad", "lead"): 1.8, ("lead", "keys"): 0.7, ("lead", "pad"): 0.5}

KNEE = 0.75  # below it samples are untouched
ECHO_GAINS = (0.4, 0.16)
# A room: (left delay, right delay, gain), a handful of reflections.
ROOM_MS = (
    (13.0, 17.0, 0.16), (29.0, 23.0, 0.15), (41.0, 47.0, 0.13), (61.0, 53.0, 0.12),
    (79.0, 89.0, 0.10), (107.0, 97.0, 0.08), (131.0, 139.0, 0.06), (173.0, 163.0, 0.04),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Piece:
    """Music with its labels; N is the number of 40 ms frames.

    Attributes:
      samples: float32 [N * 1920, 2] at 48 kHz, below 1.
      notes: int8 [N, 128] of all tonal instruments by MIDI pitch: 0 off, 1 sustained, 2 onset.
        The fading after a note's end counts as off.
      drums: int8 [N], 1 where a drum is struck within the frame, 0 elsewhere.
      drumming: int8 [N], 1 in each bar in which the drums play: what someone means who asks for
        drums for as long as it lasts.
      style: What it was composed in.
    """

    samples: np.ndarray
    notes: np.ndarray
    drums: np.ndarray
    drumming: np.ndarray
    style: Style


def compose(seed: int, frames: int, style: Style | None = None, *, by_hand: bool = False) -> Piece:
    """A piece of music.

    Args:
      seed: Not negative.
      frames: Its length, 25 a second.
      style: None for one drawn from the seed.
      by_hand: Instead of its tonal parts, somebody plays a keyboard in its sounds.
    """
    if style is None:
        style = draw(np.random.default_rng((seed, 0)))
    events, strokes, drumming_bars = _write(seed, frames, style)
    if by_hand:
        events = keyboard.held(np.random.default_rng((seed, 3)), frames, style)
    bar = np.minimum(np.arange(frames) // style.bar_frames, len(drumming_bars) - 1)
    return Piece(
        samples=_render(events, strokes, frames, style),
        notes=_label(events, frames),
        drums=_struck(strokes, frames),
        drumming=np.asarray(drumming_bars, np.int8)[bar],
        style=style,
    )


def _write(
    seed: int, frames: int, style: Style
) -> tuple[list[Event], list[drumming.Stroke], list[bool]]:
    """Notes, strokes, and whether the drums play, bar for bar."""
    rng = np.random.default_rng((seed, 1))
    alone = style.parts == ("lead",) and not style.kit
    melody = Melody(rng, style.density, alone)
    figures = {part: int(f) for part, f in zip("bkpd", rng.integers(60, size=4), strict=True)}
    fills = int(rng.integers(60)) if rng.random() < 0.75 else None
    fill_bars = 4 if rng.random() < 0.4 else 8
    sections = _Sections(rng, style)
    chord_bars = 2 if style.sixteenth_frames == 2 and style.progression != BLUES else 1

    events: list[Event] = []
    strokes: list[drumming.Stroke] = []
    drumming_bars: list[bool] = []
    for index in range(-(-frames // style.bar_frames)):
        silent = sections.silent(index)
        for place, (part, play) in enumerate({**PARTS, "lead": melody.play}.items()):
            if getattr(style, part) and part not in silent:
                events += play(
                    _bar(
                        seed,
                        index,
                        place,
                        style,
                        chord_bars,
                        figures.get(part[0], 0),
                    )
                )
        plays = bool(style.kit) and "drums" not in silent
        drumming_bars.append(plays)
        if plays:
            filled = fills is not None and index % fill_bars == fill_bars - 1
            crash = bool(style.dynamics) and index > 0 and index % 8 == 0 and fills is not None
            bar = _bar(seed, index, 4, style, chord_bars, figures["d"])
            strokes += drumming.drums(bar, fills if filled else None, crash)
    return events, strokes, drumming_bars


def _bar(seed: int, index: int, place: int, style: Style, chord_bars: int, figure: int) -> Bar:
    chords = style.progression

    def degree(bar: int) -> int:
        return chords[bar // chord_bars % len(chords)]

    stays = 0
    if index % HELD_BARS == 0 or degree(index) != degree(index - 1):
        stays = 1
        while (index + stays) % HELD_BARS and degree(index + stays) == degree(index):
            stays += 1
    return Bar(
        style=style,
        index=index,
        degree=degree(index),
        next_degree=degree(index + 1),
        chord_bars=stays,
        figure=figure,
        rng=np.random.default_rng((seed, 2, index, place)),
    )


class _Sections:
    """Which parts are silent: one of them in some intros and in some breaks."""

    def __init__(self, rng: np.random.Generator, style: Style) -> None:
        everyone = [*style.parts, *(["drums"] if style.kit else [])]
        # Those that may rest: never the last two, so that the style can always be heard.
        optional = [part for part in ("lead", "keys", "drums", "pad", "bass") if part in everyone]
        self._optional = optional[: max(0, len(everyone) - 2)]
        # About four seconds, and a break about eight, whatever the tempo.
        self._intro_bars = 2 if style.sixteenth_frames < 4 else 1
        self._intro = bool(rng.random() < INTRO_CHANCE)
        self._phase = int(rng.integers(8))
        self._chances = rng.random(64)

    def silent(self, index: int) -> set[str]:
        """The parts that rest in a bar."""
        if not self._optional:
            return set()
        if self._intro and index < self._intro_bars:
            return {self._optional[self._phase % len(self._optional)]}
        section = (index + self._phase) // (2 * self._intro_bars) % len(self._chances)
        chance = self._chances[section]
        if section % 2 == 0 or chance > BREAK_CHANCE:
            return set()
        return {self._optional[int(chance * 1_000) % len(self._optional)]}


def _render(
    events: list[Event], strokes: list[drumming.Stroke], frames: int, style: Style
) -> np.ndarray:
    """float32 [frames * 1920, 2]."""
    total = frames * FRAME_SAMPLES
    dry, wet, echoed = (np.zeros((total, 2), np.float32) for _ in range(3))
    buses = {"bass": dry, "pad": wet, "keys": echoed, "lead": echoed}
    for event in events:
        sound = note(event.preset, event.pitch, event.velocity, event.frames)
        guest = (PRESETS[event.preset].role, event.part)
        _add(buses[event.part], event.frame, sound * GUEST_GAINS.get(guest, 1.0))
    if style.kit:
        for stroke in strokes:
            _add(dry, stroke.frame, hit(style.kit, stroke.drum, stroke.velocity))
    if style.space == "echo":
        # A dotted eighth later, on the other side.
        delay = 3 * style.sixteenth_frames * FRAME_SAMPLES
        for turn, gain in enumerate(ECHO_GAINS, start=1):
            late = echoed[: max(0, total - turn * delay)]
            wet[turn * delay :] += gain * (late[:, ::-1] if turn % 2 else late)
    wet += echoed
    mix = dry + wet
    if style.space != "dry":
        for left_ms, right_ms, gain in ROOM_MS:
            for channel, ms in enumerate((left_ms, right_ms)):
                delay = round(ms * SAMPLE_RATE_HZ / 1000)
                mix[delay:, channel] += gain * wet[:-delay, 1 - channel]
    over = np.abs(mix) > KNEE
    if over.any():
        room = 1 - KNEE
        loud = mix[over]
        mix[over] = np.sign(loud) * (KNEE + room * np.tanh((np.abs(loud) - KNEE) / room) * 0.98)
    return mix


def _add(bus: np.ndarray, frame: int, sound: np.ndarray) -> None:
    start = frame * FRAME_SAMPLES
    count = min(len(sound), len(bus) - start)
    if count > 0:
        bus[start : start + count] += sound[:count]


def _label(events: list[Event], frames: int) -> np.ndarray:
    notes = np.zeros((frames, PITCHES), np.int8)
    for event in events:
        notes[event.frame : event.frame + event.frames, event.pitch] |= SUSTAINED
    for event in events:
        if event.frame < frames:
            notes[event.frame, event.pitch] = ONSET
    return notes


def _struck(strokes: list[drumming.Stroke], frames: int) -> np.ndarray:
    struck = np.zeros(frames, np.int8)
    for stroke in strokes:
        if stroke.frame < frames:
            struck[stroke.frame] = 1
    return struck
