"""Uploads that no honest client sends: bombs, endless headers, claims that nothing backs.

Invariant: every maker is deterministic, and its file is at most ``MOST_BYTES`` long, which the
default ``MAX_FILE_SIZE_MB`` lets in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from audio_files import by_ffmpeg, by_libsndfile, ffmpeg, id3_picture, silent_flac, tone, wav_bytes

MOST_BYTES = 49_000_000
LONG_S = 1_200  # twice the default MAX_UPLOAD_SECONDS

AAC = ("-c:a", "aac", "-f", "ipod")


def box(kind: bytes, *parts: bytes) -> bytes:
    """An MP4 box."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


FTYP = box(b"ftyp", b"M4A \0\0\0\0M4A isom")


def ogg_page(flags: int, granule: int, sequence: int, packets: bytes) -> bytes:
    """An OGG page of stream 1 with one packet of up to 64 kB, its checksum right."""
    lacing = b"\xff" * (len(packets) // 255) + bytes([len(packets) % 255])
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, 1, sequence, 0, len(lacing))
    page = bytearray(head + lacing + packets)
    page[22:26] = struct.pack("<I", _ogg_checksum(page))
    return bytes(page)


def _ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ _OGG_TABLE[value >> 24 ^ byte]
    return value


def _ogg_table() -> list[int]:
    table = []
    for index in range(256):
        value = index << 24
        for _ in range(8):
            value = (value << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if value >> 31 else 0)
        table.append(value)
    return table


_OGG_TABLE = _ogg_table()
_VORBIS_ID = b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, 2, 48_000, 0, 192_000, 0, 0xB8, 1)


def _m4a(folder: Path) -> bytes:
    return by_ffmpeg(folder / "seed.m4a", tone(1.0), 48_000, *AAC).read_bytes()


def _filled(front: bytes, piece: bytes) -> bytes:
    """``front``, and then as many pieces as may be."""
    return front + piece * ((MOST_BYTES - len(front)) // len(piece))


def _silence(folder: Path, *options: str, rate_hz: int = 48_000, channels: int = 2) -> bytes:
    """A long silence through ffmpeg."""
    layout = {1: "mono", 2: "stereo"}[channels]
    source = f"anullsrc=r={rate_hz}:cl={layout}"
    path = folder / "silence"
    ffmpeg("-f", "lavfi", "-i", source, "-t", str(LONG_S), *options, str(path))
    return path.read_bytes()


def _long_flac(folder: Path) -> bytes:
    return silent_flac(folder / "a.flac", LONG_S).read_bytes()


def _wide_flac(folder: Path) -> bytes:
    """Every bound of the format at once, in a few kB a second."""
    path = folder / "wide.flac"
    with soundfile.SoundFile(path, "w", 384_000, 8, "PCM_16", format="FLAC") as out:
        for _ in range(40):
            out.write(np.zeros((384_000, 8), np.int16))
    return path.read_bytes()


def _flac_that_claims(folder: Path) -> bytes:
    """Days, in STREAMINFO's 36 bits, and then no frame."""
    data = bytearray(silent_flac(folder / "a.flac", 60).read_bytes()[:42])
    data[4] |= 0x80  # the last block of metadata
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    return bytes(data)


def _ogg_that_claims(folder: Path) -> bytes:
    """Its last page says that days have gone by; and no packet of sound."""
    pages = [ogg_page(2, 0, 0, _VORBIS_ID), ogg_page(4, 2**40, 1, b"\x03vorbis" + bytes(9_000))]
    return b"".join(pages)


def _m4a_that_claims(folder: Path) -> bytes:
    """One entry of its table of times stands for 2**32 - 1 samples, and the next one too."""
    data = bytearray(_m4a(folder))
    at = data.index(b"stts")
    data[at + 12 : at + 16] = b"\xff" * 4
    at = data.index(b"stsz")
    data[at + 8 : at + 16] = b"\0\0\0\x01" + b"\xff" * 4  # as many samples of one byte
    return bytes(data)


def _mp3_that_claims(folder: Path) -> bytes:
    """An Info header that counts 2**32 - 1 frames, and not one."""
    options = ("-c:a", "libmp3lame", "-b:a", "128k", "-id3v2_version", "0", "-f", "mp3")
    data = bytearray(by_ffmpeg(folder / "a", tone(1.0), 48_000, *options).read_bytes())
    at = next(data.index(mark) for mark in (b"Xing", b"Info") if mark in data)
    data[at + 8 : at + 12] = b"\xff" * 4
    return bytes(data[:384])


def _sample_entry(folder: Path, offset: int, value: bytes) -> bytes:
    """M4A with a field of its sound's description changed."""
    data = bytearray(_m4a(folder))
    at = data.index(b"mp4a") + 4 + offset
    data[at : at + len(value)] = value
    esds = data.index(b"esds")
    data[esds : esds + 4] = b"free"  # else the codec's own description counts
    return bytes(data)


def _float_wav(value: float) -> bytes:
    samples = tone(0.5).astype(np.float32)
    samples[12_345, 1] = value
    return wav_bytes(samples.tobytes(), channels=2, bits=32, code=3)


def _nested(depth: int) -> bytes:
    return b"".join(struct.pack(">I", 8 * (depth - level)) + b"moov" for level in range(depth))


_EMPTY_CHUNK = b"junk\0\0\0\0"
_FLAC_INFO = bytes.fromhex("664c6143 00000022 1000 1000 000000 000000 0bb802f0 00000000") + bytes(
    16
)
_RIFF = b"RIFF" + struct.pack("<I", MOST_BYTES) + b"WAVE"
_FMT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 48_000, 192_000, 4, 16)
_COMMENTS = ogg_page(0, 0, 1, b"\x03vorbis" + bytes(60_000))

HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "flac: a long silence": _long_flac,
    "flac: eight channels at 384 kHz": _wide_flac,
    "vorbis: a long silence": lambda f: _silence(
        f, "-c:a", "libvorbis", "-f", "ogg", rate_hz=8_000, channels=1
    ),
    "opus: a long silence": lambda f: _silence(
        f, "-c:a", "libopus", "-f", "ogg", rate_hz=8_000, channels=1
    ),
    "mp3: a long silence": lambda f: _silence(
        f, "-c:a", "libmp3lame", "-b:a", "8k", "-f", "mp3", rate_hz=8_000, channels=1
    ),
    "aac: a long silence": lambda f: _silence(f, "-c:a", "aac", "-f", "adts"),
    "m4a: a long silence": lambda f: _silence(f, *AAC),
    "flac: claims days": _flac_that_claims,
    "ogg: claims days": _ogg_that_claims,
    "m4a: claims days": _m4a_that_claims,
    "mp3: claims days": _mp3_that_claims,
    "wav: claims gigabytes": lambda _: wav_bytes(b"", claimed_bytes=2**32 - 1),
    "id3: a tag of 49 MB": lambda _: id3_picture(MOST_BYTES - 1_000),
    "id3: claims 256 MB": lambda _: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(1_000_000),
    "id3: a million tags": lambda _: _filled(b"", b"ID3\x03\0\0\0\0\0\x0a" + bytes(10)),
    "m4a: endless boxes": lambda _: _filled(FTYP, box(b"free")),
    "m4a: endless movies": lambda _: _filled(FTYP, box(b"moov", box(b"free"))),
    "m4a: endless tracks": lambda _: FTYP + box(b"moov", box(b"trak") * 6_000_000),
    "m4a: endless metadata": lambda _: (
        FTYP
        + box(b"moov", box(b"udta", box(b"meta", bytes(4), box(b"ilst", box(b"free") * 5_000_000))))
    ),
    "m4a: a movie in a movie": lambda _: FTYP + _nested(MOST_BYTES // 8 - 10),
    "m4a: a box longer than the file": lambda _: FTYP + struct.pack(">I4sQ", 1, b"moov", 2**62),
    "m4a: no channels": lambda f: _sample_entry(f, 16, b"\0\0"),
    "m4a: 64 channels": lambda f: _sample_entry(f, 16, b"\0\x40"),
    "wav: endless chunks": lambda _: _filled(_RIFF + _FMT, _EMPTY_CHUNK),
    "wav: endless chunks after its sound": lambda _: _filled(wav_bytes(bytes(2_000)), _EMPTY_CHUNK),
    "wav: endless formats": lambda _: _filled(_RIFF, _FMT),
    "wav: endless lists": lambda _: _filled(_RIFF + _FMT, b"LIST\x04\0\0\0INFO"),
    "ogg: only the first header": lambda _: ogg_page(2, 0, 0, _VORBIS_ID),
    "ogg: endless first headers": lambda _: _filled(b"", ogg_page(2, 0, 0, _VORBIS_ID)),
    "ogg: endless comments": lambda _: _filled(ogg_page(2, 0, 0, _VORBIS_ID), _COMMENTS),
    "ogg: endless empty pages": lambda _: _filled(
        ogg_page(2, 0, 0, _VORBIS_ID), ogg_page(0, 0, 1, b"")
    ),
    "flac: endless metadata": lambda _: _filled(_FLAC_INFO, b"\x01\0\0\0"),
    "flac: endless applications": lambda _: _filled(_FLAC_INFO, b"\x02\0\0\x04abcd"),
    "flac: only metadata": lambda _: _FLAC_INFO + b"\x81\0\0\x04abcd",
    "mp3: first frames, each alone": lambda _: _filled(b"", b"\xff\xfb\x90\x00" + bytes(40)),
    "aac: first frames, each alone": lambda _: _filled(
        b"", b"\xff\xf1\x50\x80\x02\x1f" + bytes(40)
    ),
    "wav: 64 channels": lambda _: wav_bytes(bytes(64 * 2_000), channels=64),
    "wav: no channels": lambda _: wav_bytes(bytes(2_000), channels=0),
    "wav: no samples": lambda _: wav_bytes(b""),
    "wav: no rate": lambda _: wav_bytes(bytes(2_000), rate_hz=0),
    "wav: 384,001 Hz": lambda _: wav_bytes(bytes(2_000), rate_hz=384_001),
    "wav: not a number": lambda _: _float_wav(float("nan")),
    "wav: loud beyond measure": lambda _: _float_wav(1e32),
    "wav: infinite": lambda _: _float_wav(float("inf")),
    "wav: infinite, negative": lambda _: _float_wav(float("-inf")),
}
"""Each is refused with a 400, and says why."""


def _mp3(folder: Path) -> bytes:
    options = ("-c:a", "libmp3lame", "-b:a", "128k", "-f", "mp3")
    return by_ffmpeg(folder / "a", tone(1.0), 48_000, *options).read_bytes()


def _adts(folder: Path) -> bytes:
    return by_ffmpeg(folder / "a", tone(1.0), 48_000, "-c:a", "aac", "-f", "adts").read_bytes()


def _coded(folder: Path, format: str, subtype: str) -> bytes:
    return by_libsndfile(folder / "a", tone(1.0), 48_000, format, subtype).read_bytes()


def _table(folder: Path, kind: bytes, entry: bytes, count: int) -> bytes:
    """M4A whose table of this kind has so many entries; what holds it grows with it."""
    data = _m4a(folder)
    body = struct.pack(">II", 0, count) + entry * count
    if kind == b"stsz":
        body = struct.pack(">III", 0, 0, count) + entry * count
    return replace_box(data, [b"moov", b"trak", b"mdia", b"minf", b"stbl", kind], box(kind, body))


def replace_box(data: bytes, path: list[bytes], new: bytes) -> bytes:
    """An MP4 with the first box at ``path`` replaced, and the lengths of those around it."""
    out, at = b"", 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        whole = data[at : at + size]
        if path and whole[4:8] == path[0]:
            deeper = path[1:]
            whole = box(path[0], replace_box(whole[8:], deeper, new)) if deeper else new
            path = []
        out, at = out + whole, at + size
    return out


_NOISE = np.random.default_rng(0).bytes(1 << 20)

LITTERED: dict[str, Callable[[Path], bytes]] = {
    "mp3: noise behind": lambda f: _filled(_mp3(f), _NOISE),
    "mp3: ones behind": lambda f: _filled(_mp3(f), b"\xff" * 1_000),
    "mp3: zeros behind": lambda f: _filled(_mp3(f), bytes(1_000)),
    "mp3: headers behind": lambda f: _filled(_mp3(f), b"\xff\xfb\x90\x00"),
    "mp3: itself, again and again": lambda f: _filled(b"", _mp3(f)),
    "aac: noise behind": lambda f: _filled(_adts(f), _NOISE),
    "aac: ones behind": lambda f: _filled(_adts(f), b"\xff" * 1_000),
    "aac: empty frames behind": lambda f: _filled(_adts(f), b"\xff\xf1\x50\x80\x01\x1f\xfc"),
    "flac: noise behind": lambda f: _filled(_coded(f, "FLAC", "PCM_16"), _NOISE),
    "flac: syncs behind": lambda f: _filled(_coded(f, "FLAC", "PCM_16"), b"\xff\xf8"),
    "flac: itself, again and again": lambda f: _filled(b"", _coded(f, "FLAC", "PCM_16")),
    "vorbis: noise behind": lambda f: _filled(_coded(f, "OGG", "VORBIS"), _NOISE),
    "vorbis: itself, again and again": lambda f: _filled(b"", _coded(f, "OGG", "VORBIS")),
    "vorbis: empty pages behind": lambda f: _filled(
        _coded(f, "OGG", "VORBIS"), ogg_page(0, 0, 1, b"")
    ),
    "opus: noise behind": lambda f: _filled(_coded(f, "OGG", "OPUS"), _NOISE),
    "opus: itself, again and again": lambda f: _filled(b"", _coded(f, "OGG", "OPUS")),
    "m4a: millions of samples": lambda f: _table(f, b"stsz", b"\0\0\0\1", 12_000_000),
    "m4a: millions of empty samples": lambda f: _table(f, b"stsz", bytes(4), 12_000_000),
    "m4a: millions of times": lambda f: _table(f, b"stts", b"\0\0\0\1\0\0\4\0", 6_000_000),
    "m4a: millions of chunks": lambda f: _table(f, b"stsc", b"\0\0\0\1" * 3, 4_000_000),
    "m4a: millions of offsets": lambda f: _table(f, b"stco", b"\0\0\0\1", 12_000_000),
    "m4a: millions of descriptions": lambda f: _table(
        f, b"stsd", box(b"mp4a", bytes(28)), 1_300_000
    ),
    "wav: adpcm with blocks of one byte": lambda _: wav_bytes(
        bytes(MOST_BYTES - 100), bits=4, code=0x11
    ),
}
"""Each is answered, with or without the little sound it holds."""
