"""The lead: a motif of four bars that comes back, bent to the chords.

Invariant: everything is drawn when the melody is made; a bar then follows from its index.
"""

from __future__ import annotations

import numpy as np

from tools.demo_model.music import harmony
from tools.demo_model.music.parts import LEAD_LOW, Bar, Event

# Sixteenths at which notes start, by density.
RHYTHMS: tuple[tuple[str, ...], ...] = (
    ("x.......x.......", "x.....x.........", "x...........x...", "....x.......x..."),
    ("x...x.x.x.......", "x..x..x.....x...", "x.x.x...x..x....", "..x.x.x.x...x..."),
    ("x.x.x.xxx.x.x...", "x..xx.x.x..xx.x.", "xx.xx.x.x.x.xxx.", "x.xxx.x.x.xxx.x."),
)
STEPS = (-2, -1, -1, 0, 1, 1, 2)
LEAPS = (-3, 3, 4)
LOWEST_STEP, HIGHEST_STEP = -2, 7
LONGEST_STEPS = 8  # alone it sings to the next note
FORMS = ("ABAC", "AABC", "ABAB", "A-B-", "AB-C")  # a bar each; - is a rest
BUSY_FORMS = ("ABAC", "AABC", "ABAB")
HELD_LOW = 55
HELD_BARS = (1, 2, 4)


class Melody:
    """A piece's tune."""

    def __init__(self, rng: np.random.Generator, density: int, alone: bool) -> None:
        """Draws the motif.

        Args:
          rng: Of the piece.
          density: 0 to 2, or -1 for long held notes.
          alone: Whether nothing else plays, so that rests would be silence.
        """
        self._density = density
        self._longest = 16 if alone else LONGEST_STEPS
        forms = BUSY_FORMS if alone else FORMS
        self._form = forms[int(rng.integers(len(forms)))]
        rhythms = RHYTHMS[max(density, 0)]
        self._motifs: dict[str, list[tuple[int, int]]] = {}
        place = int(rng.integers(1, 5))
        for name in "ABC":
            rhythm = rhythms[int(rng.integers(len(rhythms)))]
            if name == "C":
                rhythm = rhythm[:9].ljust(16, ".")  # the phrase ends on a long note
            motif = []
            for step, letter in enumerate(rhythm):
                if letter == "x":
                    options = LEAPS if rng.random() < 0.15 else STEPS
                    place += int(options[int(rng.integers(len(options)))])
                    place = int(np.clip(place, LOWEST_STEP, HIGHEST_STEP))
                    motif.append((step, place))
            self._motifs[name] = motif
        self._held_bars = HELD_BARS[int(rng.integers(len(HELD_BARS)))]
        self._held_places = [int(p) for p in rng.integers(0, 5, size=16)]

    def play(self, bar: Bar) -> list[Event]:
        """The notes of a bar."""
        if self._density < 0:
            return self._hold(bar)
        name = self._form[bar.index % 4]
        if name == "-":
            return []
        style = bar.style
        low = LEAD_LOW + 12 * style.register
        notes = [note for note in self._motifs[name] if note[0] < bar.steps]
        events = []
        for place, (step, degree) in enumerate(notes):
            end = notes[place + 1][0] if place + 1 < len(notes) else bar.steps
            pitch = harmony.walk(style.key, style.scale, degree, low)
            if step % 8 == 0 or end - step >= 4:  # strong or long: in the chord
                pitch = harmony.nearest(pitch, bar.chord(low))
            steps = min(end - step, self._longest)
            events.append(bar.note("lead", step, steps, pitch, 1 if step == 0 else 0))
        return events

    def _hold(self, bar: Bar) -> list[Event]:
        if bar.index % self._held_bars:
            return []
        low = HELD_LOW + 12 * bar.style.register
        place = self._held_places[bar.index // self._held_bars % len(self._held_places)]
        pitch = harmony.walk(bar.style.key, bar.style.scale, place, low)
        return [bar.note("lead", 0, 0, pitch, bars=self._held_bars)]
