"""What a tonal instrument is: two spectra and the envelopes between them.

A preset has a soft spectrum and a bright one, an envelope that fades between them and one that
shapes the level. Nothing here depends on the piece, so that a codec of few parameters can know
every sound by heart.

Invariant: presets are data; :mod:`tools.demo_model.music.synth` gives them sound.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spectrum:
    """Amplitudes of the harmonics k of a fundamental f0.

    Attributes:
      tilt: Amplitude is k ** -tilt.
      cutoff_hz: Above it 12 dB an octave are lost …
      follow: … and it moves with f0 by this exponent, as if f0 were 262 Hz at cutoff_hz.
      even: Gain of even harmonics; 0 is hollow as a clarinet or a square.
      formants_hz: Resonances of absolute frequency, as of a voice; empty for none.
      extra: (harmonic, amplitude) added to the rest.
      only_extra: The rest is silent.
    """

    tilt: float = 1.0
    cutoff_hz: float = 2_000.0
    follow: float = 0.5
    even: float = 1.0
    formants_hz: tuple[float, ...] = ()
    extra: tuple[tuple[int, float], ...] = ()
    only_extra: bool = False


@dataclass(frozen=True)
class Preset:
    """One instrument.

    Attributes:
      role: "bass", "pad", "keys" or "lead": which part it is made for.
      soft: Spectrum at rest.
      bright: Spectrum when struck hard.
      brightness: -1 dark, 0 between, 1 bright: how people would call it.
      gain: RMS of a held note at full velocity, about; full scale is 1.
      pan: -1 left to 1 right.
      attack_s: Rise time.
      decay_s: Time constant of the decay to `sustain`.
      sustain: Level that a held note decays to; 0 for struck and plucked ones.
      release_s: How long it sounds after its end.
      glint_s: Time constant of the fade from bright to `held_bright`.
      held_bright: How bright a held note stays, 0 to 1.
      width: 0 to 1, how far apart the phases of the two channels' harmonics lie.
      vibrato_cents: Depth, reached half a second after the onset.
      lowest, highest: MIDI pitches it may play.
    """

    role: str
    soft: Spectrum
    bright: Spectrum
    brightness: int
    gain: float
    pan: float = 0.0
    attack_s: float = 0.004
    decay_s: float = 0.5
    sustain: float = 0.0
    release_s: float = 0.12
    glint_s: float = 0.15
    held_bright: float = 0.0
    width: float = 0.0
    vibrato_cents: float = 0.0
    lowest: int = 36
    highest: int = 96
