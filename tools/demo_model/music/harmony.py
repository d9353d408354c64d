"""Keys, chords and their voicing.

Invariant: pure functions of the scale, the key and degrees; pitches are MIDI, 60 is middle C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Semitones above the tonic. The pentatonic scale takes its chords from the major one.
SCALES: Mapping[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "pentatonic": (0, 2, 4, 5, 7, 9, 11),
}

# The degrees a melody prefers: no semitone between any two of them.
MELODIC: Mapping[str, tuple[int, ...]] = {
    "major": (0, 1, 2, 4, 5),
    "minor": (0, 2, 3, 4, 6),
    "dorian": (0, 2, 3, 4, 6),
    "pentatonic": (0, 1, 2, 4, 5),
}

# Degrees of the scale, one chord each; 0 is the tonic.
PROGRESSIONS: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (1, 4, 0, 5), (0, 2, 3, 4), (0, 3)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 6), (0, 5, 3, 4), (0, 6, 5, 6), (0, 0, 5, 6), (0, 3)),
    "dorian": ((0, 3), (0, 3, 6, 3), (0, 2, 3, 0), (0, 6, 3, 0)),
    "pentatonic": ((0, 5, 3, 4), (0, 3), (5, 3, 0, 4), (0, 0, 3, 4)),
}
BLUES = (0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4)

# Thirds stacked on the degree, by colour.
STACKS: Mapping[str, tuple[int, ...]] = {
    "triads": (0, 2, 4),
    "sevenths": (0, 2, 4, 6),
    "fifths": (0, 4),
    "open": (0, 4, 8),  # root, fifth and ninth: neither major nor minor
}


def pitch(key: int, scale: str, degree: int, low: int) -> int:
    """The scale's degree in the octave that begins at `low`."""
    steps = SCALES[scale]
    semitones = key + steps[degree % len(steps)]
    return low + (semitones - low) % 12


def walk(key: int, scale: str, step: int, low: int) -> int:
    """A melody's pitch: `step` counts the melodic degrees up from the tonic next above `low`."""
    degrees = MELODIC[scale]
    octave, place = divmod(step, len(degrees))
    return low + (key - low) % 12 + 12 * octave + SCALES[scale][degrees[place]]


def chord(key: int, scale: str, degree: int, colour: str, low: int) -> list[int]:
    """The chord's pitches, low to high, in the octave from `low`: the nearest inversion."""
    return sorted({pitch(key, scale, degree + third, low) for third in STACKS[colour]})


def nearest(target: int, pitches: Sequence[int]) -> int:
    """The octave of any of `pitches` that lies nearest to `target`."""
    return min(
        (target + (p - target + 6) % 12 - 6 for p in pitches), key=lambda p: (abs(p - target), p)
    )


def fold(pitch_: int, lowest: int, highest: int) -> int:
    """Moves a pitch by octaves into an instrument's range."""
    while pitch_ < lowest:
        pitch_ += 12
    while pitch_ > highest:
        pitch_ -= 12
    return pitch_
