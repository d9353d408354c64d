"""The named families: for each factor of a style, the values it is drawn from.

Invariant: data alone; repeated values are likelier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.demo_model.music.harmony import BLUES

Options = tuple[Any, ...]


@dataclass(frozen=True)
class Family:
    """What the styles of one name have in common: the values each factor is drawn from."""

    tempo: Options = (3, 4)
    scale: Options = ("major", "minor")
    chords: Options = ("triads",)
    kit: Options = (None,)
    groove: Options = (None,)
    bass: Options = (None,)
    line: Options = ("roots",)
    pad: Options = (None,)
    keys: Options = (None,)
    figure: Options = ("block",)
    lead: Options = (None,)
    register: Options = (0,)
    density: Options = (0, 1, 1, 2)
    dynamics: Options = (1, 1, 2)
    swing: Options = ("straight",)
    space: Options = ("dry", "room")
    beats: Options = (4,)
    progression: Options = ()  # () draws one of the scale's
    weight: float = 1.0


ANY_BASS = ("sub", "upright", "finger", "saw bass")
ANY_PAD = ("warm", "strings", "choir", "glass")
ANY_KEYS = ("piano", "electric piano", "guitar", "mallet", "organ")
ANY_LEAD = ("saw lead", "square", "flute", "brass", "overdrive")
ANY_LINE = ("roots", "eighths", "offbeat", "octaves", "funk", "dub", "long", "walking")
ANY_GROOVE = (
    "four on the floor", "techno", "rock", "metal", "funk", "hip hop", "trap", "break", "swing",
    "shuffle", "one drop", "latin", "bossa", "tribal", "march", "brushes",
)  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "ambient": Family(
        tempo=(4, 5), scale=("major", "minor", "dorian", "pentatonic"), chords=("open", "triads"),
        bass=(None, None, "sub"), line=("long",), pad=ANY_PAD,
        keys=(None, None, "mallet", "piano", "electric piano"), figure=("drops",),
        lead=(None, None, "flute"), density=(0,), dynamics=(0, 0, 1), space=("room", "echo"),
        weight=1.3,
    ),
    "techno": Family(
        tempo=(3,), scale=("minor", "dorian"), chords=("fifths", "triads"), kit=("electronic",),
        groove=("techno", "four on the floor"), bass=("saw bass", "sub"),
        line=("offbeat", "sixteenths", "octaves"), pad=(None, None, "warm"),
        keys=(None, "organ", "mallet"), figure=("stabs", "arpeggio"),
        lead=(None, "saw lead", "square"), space=("dry", "echo"), dynamics=(1, 2),
    ),
    "house": Family(
        tempo=(3,), scale=("minor", "dorian", "major"), chords=("sevenths", "triads"),
        kit=("electronic",), groove=("four on the floor",), bass=("finger", "sub", "saw bass"),
        line=("offbeat", "octaves", "funk"), pad=(None, "warm", "strings"),
        keys=("piano", "organ", "electric piano"), figure=("stabs", "offbeat"),
        lead=(None, None, "flute", "saw lead"), swing=("straight", "sixteenths"),
    ),
    "disco": Family(
        tempo=(3,), scale=("minor", "dorian", "major"), chords=("sevenths", "triads"),
        kit=("acoustic",), groove=("four on the floor",), bass=("finger",),
        line=("octaves",), pad=("strings",), keys=("guitar", "electric piano"),
        figure=("strum", "stabs"), lead=(None, "brass", "flute"), density=(1, 2), dynamics=(1, 2),
    ),
    "trance": Family(
        tempo=(3,), scale=("minor",), kit=("electronic",), groove=("four on the floor",),
        bass=("saw bass",), line=("offbeat",), pad=("strings", "glass", "choir"),
        keys=(None, "mallet"), figure=("arpeggio",), lead=("saw lead",), density=(2,),
        dynamics=(2,), space=("room", "echo"),
    ),
    "synthwave": Family(
        tempo=(3, 4), scale=("minor", "major"), kit=("electronic",), groove=("rock",),
        bass=("saw bass",), line=("eighths",), pad=("warm", "glass", "strings"),
        keys=(None, "electric piano"), figure=("arpeggio",), lead=("saw lead", "square", None),
        dynamics=(1, 2), space=("room", "echo"),
    ),
    "lo-fi hip hop": Family(
        tempo=(4, 5), scale=("major", "minor", "dorian"), chords=("sevenths",), kit=("soft",),
        groove=("hip hop",), bass=("upright", "sub"), line=("roots", "dub"),
        pad=(None, None, "warm"), keys=("electric piano", "piano", "guitar"),
        figure=("block", "comp"), lead=(None, None, "flute"), density=(0, 1), dynamics=(0, 0, 1),
        swing=("sixteenths", "sixteenths", "straight"), weight=1.2,
    ),
    "hip hop": Family(
        tempo=(4,), scale=("minor", "dorian"), chords=("sevenths", "triads"),
        kit=("electronic", "acoustic"), groove=("hip hop",), bass=("sub", "finger"),
        line=("dub", "funk"), pad=(None, "strings"), keys=(None, "piano", "electric piano"),
        figure=("comp", "stabs"), lead=(None, "brass", "flute"), dynamics=(1, 2),
        swing=("straight", "sixteenths"),
    ),
    "trap": Family(
        tempo=(5, 4), scale=("minor",), kit=("electronic",), groove=("trap",), bass=("sub",),
        line=("dub", "long"), pad=(None, "choir", "warm"), keys=("mallet", "piano", None),
        figure=("drops", "arpeggio"), lead=(None, "flute", "square"), density=(0, 1),
        dynamics=(1, 2),
    ),
    "jazz": Family(
        tempo=(3, 4), scale=("major", "dorian", "minor"), chords=("sevenths",),
        kit=("soft", "acoustic"), groove=("swing", "swing", "brushes"), bass=("upright",),
        line=("walking",), keys=("piano", "piano", "guitar", "electric piano"), figure=("comp",),
        lead=(None, "piano", "brass", "flute"), density=(1, 2), dynamics=(0, 1, 1),
        swing=("eighths",), weight=1.3,
    ),
    "funk": Family(
        tempo=(4, 3), scale=("dorian", "minor"), chords=("sevenths",), kit=("acoustic",),
        groove=("funk",), bass=("finger", "saw bass"), line=("funk",),
        keys=("guitar", "electric piano", "organ"), figure=("strum", "stabs"),
        lead=(None, "brass"), density=(1, 2), dynamics=(1, 2), swing=("straight", "sixteenths"),
    ),
    "soul": Family(
        tempo=(4, 5), scale=("major", "dorian"), chords=("sevenths", "triads"),
        kit=("acoustic", "soft"), groove=("hip hop", "shuffle"), bass=("finger",),
        line=("roots", "funk"), pad=(None, "strings", "choir"), keys=("organ", "electric piano"),
        figure=("block", "comp"), lead=(None, "brass"), swing=("straight", "eighths"),
    ),
    "drum and bass": Family(
        tempo=(2,), scale=("minor", "dorian"), chords=("sevenths", "triads"),
        kit=("electronic", "acoustic"), groove=("break",), bass=("sub", "saw bass"),
        line=("dub", "long"), pad=("warm", "strings", "glass", None),
        keys=(None, "electric piano"), figure=("stabs",), lead=(None, None, "saw lead"),
        density=(1, 2), dynamics=(1, 2), space=("room", "echo"), weight=1.2,
    ),
    "orchestral": Family(
        tempo=(3, 4, 5), scale=("minor", "major"), bass=(None, "upright"), line=("long", "roots"),
        pad=("strings", "strings", "choir"), keys=(None, "mallet"), figure=("arpeggio",),
        lead=(None, "brass", "flute", "strings"), register=(-1, 0, 1), dynamics=(0, 1, 2),
        space=("room",), weight=1.2,
    ),
    "chiptune": Family(
        tempo=(2, 3), scale=("major", "minor", "pentatonic"), kit=(None, "electronic"),
        groove=("rock", "four on the floor"), bass=("saw bass", "finger"),
        line=("eighths", "octaves"), keys=("square",), figure=("arpeggio",),
        lead=("square",), register=(0, 1), density=(1, 2), dynamics=(1, 2), space=("dry",),
    ),
    "rock": Family(
        tempo=(3, 4), scale=("minor", "major", "dorian"), chords=("fifths",), kit=("acoustic",),
        groove=("rock",), bass=("finger",), line=("eighths", "roots"), pad=(None, None, "organ"),
        keys=("overdrive", "guitar"), figure=("chug", "strum"), lead=(None, "overdrive"),
        dynamics=(2, 2, 1),
    ),
    "metal": Family(
        tempo=(2, 3), scale=("minor",), chords=("fifths",), kit=("acoustic",), groove=("metal",),
        bass=("finger", "saw bass"), line=("eighths",), keys=("overdrive",), figure=("chug",),
        lead=(None, "overdrive"), register=(-1,), density=(2,), dynamics=(2,), space=("dry",),
    ),
    "reggae": Family(
        tempo=(4, 5), scale=("major", "minor"), kit=("acoustic",), groove=("one drop",),
        bass=("finger", "sub"), line=("dub",), keys=("organ", "guitar"), figure=("offbeat",),
        lead=(None, "brass", "flute"), density=(0, 1), dynamics=(1,),
    ),
    "dub": Family(
        tempo=(4, 5), scale=("minor", "dorian"), kit=("acoustic", "electronic"),
        groove=("one drop",), bass=("sub",), line=("dub",), keys=("organ", "guitar"),
        figure=("offbeat", "drops"), lead=(None, None, "flute"), density=(0,), dynamics=(1,),
        space=("echo",),
    ),
    "latin": Family(
        tempo=(3, 4), scale=("minor", "major"), chords=("sevenths", "triads"), kit=("acoustic",),
        groove=("latin",), bass=("upright", "finger"), line=("tumbao",),
        keys=("piano", "piano", "guitar"), figure=("montuno",), lead=(None, "brass", "flute"),
        density=(1, 2),
    ),
    "bossa nova": Family(
        tempo=(3, 4), scale=("major", "dorian"), chords=("sevenths",), kit=("soft",),
        groove=("bossa",), bass=("upright",), line=("tumbao", "roots"), keys=("guitar",),
        figure=("comp",), lead=(None, "flute", "piano"), dynamics=(0, 1), density=(0, 1),
    ),
    "world": Family(
        tempo=(3, 4), scale=("pentatonic", "dorian"), chords=("open", "triads"),
        kit=("acoustic", None), groove=("tribal", "latin"), bass=(None, "upright"),
        line=("roots",), pad=(None, "choir"), keys=("mallet", "guitar"),
        figure=("arpeggio", "strum"), lead=(None, "flute"), density=(1, 2),
    ),
    "folk": Family(
        tempo=(3, 4), scale=("major", "pentatonic", "minor"), kit=(None, None, "soft"),
        groove=("brushes",), bass=(None, "upright"), line=("roots",), keys=("guitar",),
        figure=("arpeggio", "strum"), lead=(None, "flute"), dynamics=(0, 1), space=("room", "dry"),
    ),
    "waltz": Family(
        tempo=(3, 4), beats=(3,), scale=("major", "minor"), kit=(None, "soft"), groove=("waltz",),
        bass=(None, "upright"), line=("roots",), pad=(None, "strings"),
        keys=("piano", "organ", "guitar"), figure=("waltz",), lead=("flute", "strings", None),
        dynamics=(0, 1, 2),
    ),
    "blues": Family(
        tempo=(4, 5), scale=("dorian", "minor"), chords=("sevenths", "fifths"), kit=("acoustic",),
        groove=("shuffle",), bass=("upright", "finger"), line=("walking", "roots"),
        keys=("piano", "guitar", "organ"), figure=("comp", "strum"),
        lead=(None, "overdrive", "guitar"), swing=("eighths",), progression=(BLUES,),
    ),
    "march": Family(
        tempo=(3,), scale=("major",), kit=("acoustic",), groove=("march",), bass=("upright",),
        line=("octaves",), pad=(None, "brass"), keys=(None, "mallet"), figure=("stabs",),
        lead=("brass", "flute"), register=(0, 1), dynamics=(1, 2),
    ),
    "minimal": Family(
        tempo=(2, 3), scale=("major", "pentatonic", "dorian"), chords=("sevenths", "open"),
        pad=(None, "strings", "glass"), keys=("mallet", "piano"), figure=("arpeggio",),
        density=(2,), dynamics=(0, 1), register=(0, 1),
    ),
    "lullaby": Family(
        tempo=(4, 5), scale=("major", "pentatonic"), pad=(None, "warm"), keys=(None, "mallet"),
        figure=("arpeggio",), lead=("mallet",), register=(1,), density=(0, 1), dynamics=(0,),
        space=("room",),
    ),
    "piano solo": Family(
        tempo=(3, 4, 5), scale=("major", "minor", "dorian"), chords=("triads", "sevenths"),
        keys=("piano",), figure=("ballad", "arpeggio", "block"), lead=("piano", "piano", None),
        dynamics=(0, 1, 1, 2), space=("room", "dry"), weight=1.3,
    ),
    "keys solo": Family(
        tempo=(3, 4, 5), chords=("triads", "sevenths"),
        keys=("electric piano", "guitar", "organ", "mallet"),
        figure=("arpeggio", "block", "comp", "strum"), register=(0, 0, 1, -1),
        dynamics=(0, 1, 2), space=("room", "dry"),
    ),
    "drums only": Family(
        tempo=(2, 3, 4, 5), kit=("electronic", "acoustic", "acoustic", "soft"), groove=ANY_GROOVE,
        density=(1, 2), dynamics=(1, 1, 2), swing=("straight", "straight", "sixteenths"),
        space=("dry",), weight=2.2,
    ),
    "bass only": Family(
        tempo=(3, 4, 5), scale=("minor", "dorian"), bass=("sub", "sub", "upright", "finger"),
        line=("roots", "dub", "eighths", "funk", "long", "octaves", "walking"), space=("dry",),
        dynamics=(1, 2), weight=1.8,
    ),
    "lead solo": Family(
        tempo=(2, 3, 4), scale=("minor", "major", "pentatonic", "dorian"), lead=ANY_LEAD,
        register=(0, 0, 1, -1), density=(0, 1, 2), dynamics=(0, 1, 2),
        space=("dry", "room", "echo"), weight=1.8,
    ),
    "pads only": Family(
        tempo=(4, 5), scale=("major", "minor", "dorian", "pentatonic"),
        chords=("triads", "sevenths", "open"), pad=ANY_PAD, density=(0,), dynamics=(0, 0, 1, 2),
        space=("room", "dry"), weight=1.8,
    ),
    "drone": Family(
        tempo=(5,), scale=("minor", "dorian", "major"), chords=("fifths", "open"),
        progression=((0,),), bass=(None, "sub"), line=("drone",), pad=ANY_PAD,
        density=(0,), dynamics=(0, 1), space=("room",), weight=0.8,
    ),
    "held notes": Family(
        tempo=(3, 4, 5), scale=("major", "minor", "dorian", "pentatonic"),
        lead=("strings", "organ", "flute", "saw lead", "choir", "brass", "square", "warm"),
        register=(-1, 0, 1), density=(-1,), dynamics=(0, 1, 2), space=("dry", "room"), weight=1.5,
    ),
    "drums and bass": Family(
        tempo=(3, 4), scale=("minor", "dorian"), kit=("acoustic", "electronic"), groove=ANY_GROOVE,
        bass=ANY_BASS, line=ANY_LINE, dynamics=(1, 2), space=("dry",), weight=0.7,
    ),
}  # fmt: skip
