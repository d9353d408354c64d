"""Which audio file this is, told from its bytes alone.

Names and extensions lie, and a decoder that guesses turns text into noise; so a file is
recognised here, strictly, before any decoder sees it, and a decoder is told what to expect.

Invariant: what is not one of ``Kind`` is None; nothing is "probably audio".
"""

from __future__ import annotations

from enum import StrEnum
from typing import BinaryIO


class Kind(StrEnum):
    """A container that is taken; the value is also ffmpeg's name for its demuxer."""

    wav = "wav"
    flac = "flac"
    ogg = "ogg"
    mp3 = "mp3"
    aac = "aac"  # ADTS
    mp4 = "mp4"  # M4A


_SCANNED_BYTES = 65_536  # how far into the file the first MP3 or AAC frame may begin
_CHAIN_FRAMES = 3  # so many headers in a row, each where the last one says, are no accident
_MAX_FRAME_BYTES = 8_191  # an ADTS frame's length has 13 bits
_MAX_ID3_TAGS = 4

_ID3_HEADER_BYTES = 10
_MP3_KBPS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2.5
}
_MP3_RATES_HZ = {
    3: (44_100, 48_000, 32_000),
    2: (22_050, 24_000, 16_000),
    0: (11_025, 12_000, 8_000),
}


def sniff(file: BinaryIO) -> Kind | None:
    """Recognises a seekable file; reads at most a few tens of kB of it."""
    file.seek(_id3_end(file))
    data = file.read(_SCANNED_BYTES + _CHAIN_FRAMES * _MAX_FRAME_BYTES)
    if data[:4] in (b"RIFF", b"RIFX", b"RF64") and data[8:12] == b"WAVE":
        return Kind.wav
    if data[:4] == b"fLaC":
        return Kind.flac
    if data[:4] == b"OggS":
        return Kind.ogg
    if data[4:8] == b"ftyp":
        return Kind.mp4
    return _first_frames(data)


def _id3_end(file: BinaryIO) -> int:
    """Where the ID3v2 tags at the front of a file end, bytes."""
    end = 0
    for _ in range(_MAX_ID3_TAGS):
        file.seek(end)
        head = file.read(_ID3_HEADER_BYTES)
        if len(head) < _ID3_HEADER_BYTES or head[:3] != b"ID3" or max(head[6:]) > 0x7F:
            break
        footer_bytes = _ID3_HEADER_BYTES if head[5] & 0x10 else 0
        body_bytes = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        end += _ID3_HEADER_BYTES + body_bytes + footer_bytes
    return end


def _first_frames(data: bytes) -> Kind | None:
    offset = data.find(0xFF, 0, _SCANNED_BYTES)
    while offset >= 0:
        kind = _chain(data, offset)
        if kind is not None:
            return kind
        offset = data.find(0xFF, offset + 1, _SCANNED_BYTES)
    return None


def _chain(data: bytes, offset: int) -> Kind | None:
    """The kind of ``_CHAIN_FRAMES`` frames in a row from ``offset`` on; None when they are not."""
    first: tuple[Kind, int] | None = None
    for _ in range(_CHAIN_FRAMES):
        frame = _frame(data[offset : offset + 6])
        if frame is None:
            return None
        kind, rate, length = frame
        if first is None:
            first = (kind, rate)
        elif first != (kind, rate):
            return None
        offset += length
    return None if first is None else first[0]


def _frame(head: bytes) -> tuple[Kind, int, int] | None:
    """Kind, a number for the sample rate, and length in bytes of the frame with this header."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:  # reserved in MPEG audio; all that ADTS uses
        rate_index = head[2] >> 2 & 15
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        ok = head[1] & 0xF0 == 0xF0 and rate_index < 13 and length > 7
        return (Kind.aac, rate_index, length) if ok else None
    kbps_index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if layer != 1 or version == 1 or kbps_index in (0, 15) or rate_index == 3:
        return None
    rate = _MP3_RATES_HZ[version][rate_index]
    bits_per_kbps = 144_000 if version == 3 else 72_000
    return Kind.mp3, rate, bits_per_kbps * _MP3_KBPS[version][kbps_index] // rate + padding
