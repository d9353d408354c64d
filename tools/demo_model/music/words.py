"""What words mean here: for each word or phrase, the styles nearest to it.

Everything the demo's vocabulary names is mapped to what this small palette can play of it: a
cello is low strings, an oboe the flute, grunge is rock.

Invariant: WORDS has every word of the vocabulary's genres, instruments and moods; a word's hint
is one that some family meets as it is, or after a few factors were set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tools.demo_model.music.families import ANY_KEYS, ANY_PAD
from tools.demo_model.music.styles import StyleHint

KITS = ("electronic", "acoustic", "soft")
TUNES = ("lead solo", "held notes", "orchestral", "folk", "waltz")
STRUMMED = ("keys solo", "folk", "world", "bossa nova")
FAST, SLOW = (2,), (4, 5)
CALM = (
    "ambient", "pads only", "lullaby", "piano solo", "folk", "waltz", "orchestral", "drone",
    "bossa nova", "lo-fi hip hop", "minimal", "keys solo",
)  # fmt: skip
BRIGHT_LEADS = ("saw lead", "square")


Mean = Callable[..., None]


def _table(kind: Callable[[Mean], None]) -> dict[str, StyleHint]:
    words: dict[str, StyleHint] = {}

    def mean(text: str, *families: str, **where: Any) -> None:
        """Each phrase of `text`, apart by commas or line ends, has this hint."""
        hint = StyleHint(families, tuple(where.items()))
        for phrase in text.replace("\n", ",").split(","):
            words[phrase.strip()] = hint

    kind(mean)
    return words


def _genres(mean: Mean) -> None:
    mean("ambient, ambient music, noise, new, soundscape, new age, chillout, shoegaze", "ambient")
    mean("techno, industrial, electro, acid, minimal techno", "techno")
    mean("acid house, house, garage, deep house, footwork, electronic, dance, club", "house")
    mean("disco, motown", "disco")
    mean("trance, progressive, progressive trance, future", "trance")
    mean("synthwave, wave, new wave, vaporwave, eighties synth pop, city, city pop", "synthwave")
    mean("lo-fi, lo-fi hip hop, lofi, lofi beats, trip, trip hop, neo", "lo-fi hip hop")
    mean("hip hop, hip, hop, phonk, grime, rap beat", "hip hop", "trap")
    mean("trap, 808, dubstep", "trap")
    mean("jazz, bebop, swing, jazz trio, jazz piano trio, ragtime", "jazz")
    mean("funk, fusion, afrobeat", "funk")
    mean("soul, gospel, neo soul, rhythm and blues", "soul")
    mean("jungle, drum and bass, dnb, breakbeat, glitch, liquid drum and bass", "drum and bass")
    mean("orchestral, classical, opera, chamber, baroque, romantic", "orchestral")
    mean("classical music, film score, symphony", "orchestral")
    mean("chiptune, 8-bit, video game music, game boy", "chiptune")
    mean("rock, indie, punk, grunge, pop rock, surf, rockabilly, krautrock, post", "rock")
    mean("psychedelic, hard rock, post rock", "rock")
    mean("pop", "synthwave", "disco", "house")
    mean("metal, heavy metal", "metal")
    mean("reggae, ska, dancehall, reggaeton", "reggae")
    mean("dub, dub reggae", "dub")
    mean("salsa, latin, cumbia, samba, mariachi, tango, flamenco", "latin")
    mean("bossa nova, bossa, nova, fado", "bossa nova")
    mean("bhangra, world music, tribal, african", "world")
    mean("celtic, klezmer, world", "world", "folk")
    mean("folk, acoustic, country, bluegrass, western, zydeco, polka", "folk")
    mean("waltz", "waltz")
    mean("blues, slow blues", "blues")
    mean("march, marching band", "march")
    mean("experimental, minimal, minimalism, repetitive", "minimal")
    mean("lullaby, music box", "lullaby")
    mean("cinematic", "orchestral", "ambient", space=("room",))
    mean("drone", "drone")


def _instruments(mean: Mean) -> None:
    mean("piano", "piano solo", "jazz", "house", "lo-fi hip hop", "latin", keys=("piano",))
    mean("grand piano, solo piano, piano solo, piano only", "piano solo")
    mean("harpsichord, keyboard, clavinet", "keys solo", "funk", keys=("guitar", "electric piano"))
    mean(
        "electric piano, rhodes, wurlitzer, mellotron", "keys solo", "lo-fi hip hop", "soul",
        keys=("electric piano",),
    )  # fmt: skip
    mean(
        "guitar, acoustic guitar, banjo, bouzouki, lute, lyre, mandolin, ukulele, sitar, oud\n"
        "koto, pipa, shamisen, nylon guitar, plucked strings",
        *STRUMMED, keys=("guitar",),
    )  # fmt: skip
    mean("harp, dulcimer", *STRUMMED, keys=("guitar",), figure=("arpeggio",))
    mean("electric guitar, electric", "rock", "metal", keys=("overdrive",))
    mean("distorted guitar, guitar solo", "lead solo", "rock", lead=("overdrive",))
    mean(
        "bell, bells, glockenspiel, kalimba, marimba, vibraphone, xylophone, triangle, gong",
        "keys solo", "minimal", "lullaby", "world", keys=("mallet",),
    )  # fmt: skip
    mean("steel, mallets", "keys solo", "minimal", "world", keys=("mallet",))
    mean("organ, accordion, harmonica, hammond organ", "keys solo", "reggae", "soul", "waltz",
         keys=("organ",))  # fmt: skip
    mean("bagpipe, hurdy, gurdy, hurdy gurdy, didgeridoo", "drone")
    mean("strings, string section, string ensemble", "orchestral", "pads only", pad=("strings",))
    mean("violin, fiddle, viola", *TUNES, lead=("strings",), register=(0, 1))
    mean("cello", *TUNES, lead=("strings",), register=(-1,))
    mean("choir, vocal, voice, vocals, choral", "pads only", "ambient", "orchestral",
         pad=("choir",))  # fmt: skip
    mean(
        "flute, pan flute, pan, recorder, whistle, duduk, theremin, piccolo, ocarina",
        *TUNES, lead=("flute",),
    )  # fmt: skip
    mean("clarinet, oboe, english, horn, woodwind", *TUNES, lead=("flute",), register=(-1, 0))
    mean("bassoon", *TUNES, lead=("flute", "brass"), register=(-1,))
    mean(
        "brass, french, french horn, trumpet, saxophone, sax, horns", "lead solo", "march", "jazz",
        "funk", "orchestral", lead=("brass",),
    )  # fmt: skip
    mean("trombone, tuba", "lead solo", "march", "orchestral", lead=("brass",), register=(-1,))
    mean("bass, bass guitar", "bass only", "drums and bass", bass=("finger", "sub", "upright"))
    mean("contrabass, double, double bass, upright bass", "bass only", "jazz", bass=("upright",))
    mean("moog, synth bass", "techno", "synthwave", "trance", bass=("saw bass",))
    mean("sub bass, sub", "bass only", "trap", "dub", bass=("sub",))
    mean(
        "drum, drums, percussion, hi-hat, snare, kick, cymbal, clap, tambourine, taiko, timpani\n"
        "toms, drum kit, drum solo, beat, drum loop",
        "drums only",
    )  # fmt: skip
    mean("shaker", "drums only", "bossa nova", kit=("soft",))
    mean("bongo, conga, cowbell, congas, tabla, hand drums", "drums only", kit=("acoustic",),
         groove=("latin", "tribal", "bossa"))  # fmt: skip
    mean("drum machine, electronic drums, sampler", "drums only", kit=("electronic",))
    mean("acoustic drums", "drums only", kit=("acoustic",))
    mean("brushes, brushed drums, soft drums", "drums only", kit=("soft",))
    mean("turntable", "hip hop", "lo-fi hip hop")
    mean("synth, synthesizer", "synthwave", "lead solo", lead=("saw lead", "square"))
    mean("pad, pads, synth pad", "pads only")
    mean("lead, lead synth, melody", "lead solo")


def _moods(mean: Mean) -> None:
    mean("aggressive, angry, fierce, raw, hard, heavy, wild", "metal", "rock", "techno",
         dynamics=(2,))  # fmt: skip
    mean("gritty, distorted, fuzzy", "rock", "metal")
    mean("airy, ethereal, floating, cosmic, vast", "ambient", "pads only", "trance",
         pad=("glass", "choir"))  # fmt: skip
    mean("light, shimmering, sunny", tone=(1,), scale=("major", "pentatonic"))
    mean("anxious, tense, urgent", scale=("minor",), density=(2,), sixteenth_frames=(2, 3))
    mean("bittersweet, nostalgic, wistful", *CALM, "synthwave", dynamics=(0, 1))
    mean("bright", tone=(1,))
    mean("bouncy, playful", "chiptune", "march", "funk", "reggae", "latin", "disco")
    mean("calm, peaceful, gentle, serene, soothing, soft, quiet, relaxed, tender, mellow, fluid",
         *CALM, dynamics=(0,))  # fmt: skip
    mean("laid, back, laid back, lazy, cozy", "lo-fi hip hop", "bossa nova", "reggae", "soul")
    mean("dusty", "lo-fi hip hop")
    mean("cheerful, happy, joyful, uplifting", scale=("major", "pentatonic"), density=(1, 2),
         dynamics=(1, 2))  # fmt: skip
    mean("hopeful", *CALM, scale=("major",))
    mean("upbeat, festive", scale=("major", "pentatonic"), sixteenth_frames=(2, 3), kit=KITS)
    mean("tropical", "latin", "bossa nova", "world", "reggae")
    mean("cold", "techno", "ambient", "drum and bass", scale=("minor",))
    mean("dark, gloomy, ominous, moody", tone=(-1,), scale=("minor", "dorian"))
    mean("eerie, haunting, spooky, mysterious, weird", "ambient", "drone", "pads only",
         "orchestral", scale=("minor", "dorian"))  # fmt: skip
    mean("deep", "bass only", "dub", "drone", "trap", bass=("sub",))
    mean("driving, energetic, powerful, punchy, intense, euphoric", kit=KITS, dynamics=(2,),
         sixteenth_frames=(2, 3))  # fmt: skip
    mean("dreamy, swirling", "ambient", "pads only", "synthwave", space=("room", "echo"))
    mean("elegant", "waltz", "orchestral", "piano solo")
    mean("emotional, intimate, sensual, sultry", "piano solo", "soul", "orchestral", "keys solo")
    mean("epic, solemn", "orchestral", dynamics=(1, 2))
    mean("live", kit=("acoustic",))
    mean("fast", sixteenth_frames=FAST)
    mean("slow", sixteenth_frames=SLOW)
    mean("steady, tight", kit=KITS, swing=("straight",))
    mean("filtered, muted", tone=(-1,))
    mean("glitchy, wobbly", "drum and bass", "techno", "chiptune")
    mean("groovy, syncopated, rhythmic", "funk", "house", "latin", "drums and bass", "disco")
    mean("percussive", "drums only", "world", "latin", kit=KITS)
    mean("hypnotic, repetitive", "techno", "minimal", "dub", "drone")
    mean("jazzy", chords=("sevenths",))
    mean("loud", dynamics=(2,))
    mean("lush", pad=ANY_PAD, chords=("sevenths", "triads", "open"), space=("room", "echo"))
    mean("melancholic, sad", scale=("minor",), dynamics=(0, 1), sixteenth_frames=SLOW)
    mean("melodic", "lead solo", "piano solo", "chiptune", "synthwave", "folk")
    mean("reverberant, wet, spacious", space=("room", "echo"))
    mean("stereo", pad=ANY_PAD)
    mean("simple, sparse", density=(0,))
    mean("smooth", "soul", "jazz", "bossa nova", "pads only", "lo-fi hip hop")
    mean("vintage", "soul", "blues", "lo-fi hip hop", "jazz")
    mean("warm", tone=(-1,), kit=(None, "soft"))


def _phrases(mean: Mean) -> None:
    mean("drums only, only drums, just drums, drums without melody", "drums only")
    mean("soft ambient pad, soft pad, gentle ambient pad, quiet pad", "pads only", "ambient",
         pad=ANY_PAD, dynamics=(0,), keys=(None,), lead=(None,), bass=(None,))  # fmt: skip
    mean("deep bass, deep sub bass, low bass, bass only, only bass", "bass only", bass=("sub",))
    mean("bright lead, bright synth lead, sharp lead", "lead solo", lead=BRIGHT_LEADS,
         register=(0, 1))  # fmt: skip
    mean("mellow lead, soft lead", "lead solo", lead=("flute",))
    mean("warm pad, warm synth pad, dark pad", "pads only", pad=("warm",))
    mean("bright pad, glassy pad, airy pad", "pads only", pad=("glass",))
    mean("strings pad, string pad", "pads only", pad=("strings",))
    mean("no drums, without drums, beatless", kit=(None,))
    mean("drums and bass, bass and drums, rhythm section", "drums and bass")
    mean("arpeggio, arpeggios, broken chords", figure=("arpeggio",), keys=ANY_KEYS)
    mean("long notes, a long held note, sustained notes, held note", "held notes")
    mean("staccato chords, chord stabs", figure=("stabs",), keys=ANY_KEYS, chords=("sevenths",))
    mean("echo, delay, echoes", space=("echo",))
    mean("dry, close", space=("dry",))
    mean("busy, dense", density=(2,))
    mean("walking bass", line=("walking",), bass=("upright",))
    mean("single notes, monophonic, unaccompanied melody", "lead solo", "held notes")
    mean("swung, shuffled", swing=("eighths", "sixteenths"), kit=KITS)
    mean("major key, in major, major", scale=("major",))
    mean("minor key, in minor, minor", scale=("minor",))
    mean("in three, three four time", "waltz")


GENRES = _table(_genres)
INSTRUMENTS = _table(_instruments)
MOODS = _table(_moods)
PHRASES = _table(_phrases)
WORDS: Mapping[str, StyleHint] = {**GENRES, **INSTRUMENTS, **MOODS, **PHRASES}
