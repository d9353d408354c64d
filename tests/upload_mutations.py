"""Audio files that were damaged on purpose, each by a number.

A mutation is what goes wrong on the way (bits, lost or doubled pieces) or what somebody wants to
go wrong: fields of a header set to extremes, formats in one another, lies about lengths.

Invariant: a file depends on its number and the seeds alone.
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg

SEED_S = 0.4
MOST_MUTATIONS = 4
HEADER_BYTES = 400  # where most of what a decoder reads with care lies
MOST_BYTES = 400_000

SEED_FORMATS = {
    "mp3": ("-c:a", "libmp3lame", "-b:a", "128k", "-f", "mp3"),
    "mp3-vbr-mono": ("-ac", "1", "-c:a", "libmp3lame", "-q:a", "6", "-f", "mp3"),
    "wav": ("-c:a", "pcm_s16le", "-f", "wav"),
    "wav-float": ("-c:a", "pcm_f32le", "-f", "wav"),
    "wav-adpcm": ("-c:a", "adpcm_ima_wav", "-f", "wav"),
    "rf64": ("-c:a", "pcm_s24le", "-rf64", "always", "-f", "wav"),
    "flac": ("-c:a", "flac", "-f", "flac"),
    "vorbis": ("-c:a", "libvorbis", "-f", "ogg"),
    "opus": ("-c:a", "libopus", "-f", "ogg"),
    "ogg-flac": ("-c:a", "flac", "-f", "ogg"),
    "m4a": ("-c:a", "aac", "-f", "ipod"),
    "m4a-fragmented": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
    "alac": ("-c:a", "alac", "-f", "ipod"),
    "adts": ("-c:a", "aac", "-f", "adts"),
}
_TITLE = ("-metadata", "title=a seed", "-metadata", "comment=" + "c" * 200)
_NAMES = (  # of fields and boxes, with lengths, counts and rates after them
    *(b"fmt ", b"data", b"RIFF", b"RF64", b"ds64", b"fact", b"LIST"),
    *(b"OggS", b"vorbis", b"OpusHead", b"OpusTags", b"fLaC", b"ID3", b"Xing", b"Info", b"TAG"),
    *(b"ftyp", b"moov", b"mvhd", b"tkhd", b"mdhd", b"stsd", b"mp4a", b"alac", b"esds", b"stts"),
    *(b"stsz", b"stsc", b"stco", b"moof", b"trun", b"tfhd", b"mdat", b"dref", b"elst", b"udta"),
)
_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Mutation = Callable[[bytearray, random.Random, list[bytes]], None]


def make_seeds(folder: Path) -> list[bytes]:
    """Short, whole files: one in each of the formats that are taken, and in their variants."""
    source = f"sine=frequency=440:duration={SEED_S}"
    return [encoded(folder, name, source).read_bytes() for name in SEED_FORMATS]


def encoded(folder: Path, name: str, source: str) -> Path:
    """What one of ffmpeg's own sources makes, at 48 kHz in one of ``SEED_FORMATS``."""
    options = SEED_FORMATS[name]
    stereo = () if "-ac" in options else ("-ac", "2")
    path = folder / name
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
    subprocess.run([*command, "-ar", "48000", *stereo, *_TITLE, *options, str(path)], check=True)
    return path


def mutated(number: int, seeds: list[bytes]) -> bytes:
    """The file of this number: a seed with one to ``MOST_MUTATIONS`` things wrong with it."""
    chance = random.Random(number)
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, MOST_MUTATIONS)):
        chance.choice(MUTATIONS)(data, chance, seeds)
    return bytes(data[:MOST_BYTES])


def _place(data: bytearray, chance: random.Random) -> int:
    """An offset: every other time in the header."""
    most = len(data) if chance.random() < 0.5 else min(len(data), HEADER_BYTES)
    return chance.randrange(most) if most else 0


def _piece(data: bytes | bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(data)) if data else 0
    return bytes(data[start : start + int(2 ** chance.uniform(0, 14))])


def flip_bits(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    for _ in range(int(2 ** chance.uniform(0, 8)) if data else 0):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def overwrite_run(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    at, length = _place(data, chance), int(2 ** chance.uniform(0, 12))
    run = chance.choice([bytes(length), b"\xff" * length, chance.randbytes(length)])
    data[at : at + length] = run[: len(data) - at]


def truncate(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    del data[_place(data, chance) :]


def drop_piece(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    at = _place(data, chance)
    del data[at : at + int(2 ** chance.uniform(0, 12))]


def double_piece(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    at, piece = _place(data, chance), _piece(data, chance)
    data[at:at] = piece


def splice(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    """A piece of another file, often of another format, over or between this one's."""
    at, piece = _place(data, chance), _piece(chance.choice(seeds), chance)
    data[at : at + chance.choice([0, len(piece)])] = piece


def join(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    """Another whole file in front or behind."""
    at = chance.choice([0, len(data)])
    data[at:at] = chance.choice(seeds)


def insert_junk(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    length = int(2 ** chance.uniform(0, 15))
    at = chance.choice([0, _place(data, chance)])
    data[at:at] = chance.choice([bytes(length), chance.randbytes(length)])


def repeat_header(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    header = bytes(data[: chance.choice([4, 12, 44, 128, HEADER_BYTES])])
    data[0:0] = header * int(2 ** chance.uniform(0, 8))


def extreme_field(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    """Somewhere in the header, or right behind a name: a number that is not meant to be."""
    places = [at + len(name) for name in _NAMES if (at := data.find(name)) >= 0]
    at = _place(data, chance)
    if places and chance.random() < 0.7:
        at = chance.choice(places) + chance.choice([-8, 0, 0, 1, 2, 4, 6, 8, 10, 12, 16, 20, 24])
    order, code = chance.choice("<>"), chance.choice("BHIQ")
    width = struct.calcsize(code)
    value = chance.choice(_EXTREMES) & (1 << 8 * width) - 1
    at = max(0, min(at, len(data) - width))
    data[at : at + width] = struct.pack(order + code, value)


def lying_tag(data: bytearray, chance: random.Random, seeds: list[bytes]) -> None:
    """An ID3 tag in front, as long as it says or not."""
    claimed = bytes(chance.randrange(128) for _ in range(4))
    body = chance.randbytes(chance.randrange(2_000))
    data[0:0] = b"ID3" + bytes([chance.choice([2, 3, 4, 255]), 0, chance.randrange(256)])
    data[6:6] = claimed + body


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    overwrite_run,
    truncate,
    drop_piece,
    double_piece,
    splice,
    join,
    insert_junk,
    repeat_header,
    extreme_field,
    extreme_field,
    extreme_field,
    lying_tag,
)
