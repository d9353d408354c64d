"""What somebody holds on a keyboard: a note or a few, for as long as they like.

It follows no bars and no key, so that whoever learns from it learns to play the keys alone.

Invariant: a stretch depends on the generator and the style alone.
"""

from __future__ import annotations

import numpy as np

from tools.demo_model.music.harmony import fold
from tools.demo_model.music.parts import Event
from tools.demo_model.music.presets import PRESETS
from tools.demo_model.music.styles import Style

LOWEST, HIGHEST = 36, 88
SHORTEST_FRAMES, LONGEST_FRAMES = 10, 150
REST_CHANCE, LONGEST_REST_FRAMES = 0.15, 25
NOTES_AT_ONCE = (1, 1, 1, 1, 1, 1, 2, 3, 3, 4)
UNISON_CHANCE = 0.25  # that a second instrument plays the same
STEPS_AWAY = 7  # semitones: the next note is near the last, or anywhere
ANYWHERE_CHANCE = 0.5
# What fades is struck again while its key is held.
FADES_BELOW, AGAIN_BEATS = 0.3, (1, 2)


def held(rng: np.random.Generator, frames: int, style: Style) -> list[Event]:
    """The notes of a piece in the sounds of a style; none if it has none but drums."""
    if not style.parts:
        return []
    parts = {str(rng.choice(style.parts)): None}  # a set that keeps its order
    if rng.random() < UNISON_CHANCE:
        parts[str(rng.choice(style.parts))] = None
    again = AGAIN_BEATS[int(rng.integers(len(AGAIN_BEATS)))] * 4 * style.sixteenth_frames
    events: list[Event] = []
    frame, pitch = 0, int(rng.integers(LOWEST, HIGHEST + 1))
    while frame < frames:
        if rng.random() < REST_CHANCE:
            frame += int(rng.integers(1, LONGEST_REST_FRAMES))
        length = round(np.exp(rng.uniform(np.log(SHORTEST_FRAMES), np.log(LONGEST_FRAMES))))
        if rng.random() < ANYWHERE_CHANCE:
            pitch = int(rng.integers(LOWEST, HIGHEST + 1))
        else:
            pitch += int(rng.integers(-STEPS_AWAY, STEPS_AWAY + 1))
        pitch = int(np.clip(pitch, LOWEST, HIGHEST))
        count = NOTES_AT_ONCE[int(rng.integers(len(NOTES_AT_ONCE)))]
        others = pitch + rng.choice(np.arange(1, 13), count - 1, replace=False)
        for key in (pitch, *others.tolist()):
            for part in parts:
                events += _key(style, part, key, frame, length, again)
        frame += length
    return events


def _key(style: Style, part: str, key: int, frame: int, length: int, again: int) -> list[Event]:
    """One key held down for a length, in frames."""
    preset = getattr(style, part)
    sound = PRESETS[preset]
    pitch = fold(key, sound.lowest, sound.highest)
    stride = again if sound.sustain < FADES_BELOW else length
    return [
        Event(part, preset, frame + start, pitch, style.dynamics, min(stride, length - start))
        for start in range(0, length, stride)
    ]
