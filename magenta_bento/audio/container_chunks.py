"""How many chunks a container has, before a decoder looks at each of them.

WAV and MP4 are a row of chunks (MP4's are called boxes), each with its length. One of 8 bytes
costs a decoder a turn of its loop: 50 MB of them cost seconds, and hold no sound.

Invariant: a file with more chunks than any honest one is refused at a cost that its length has
no part in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Literal

from magenta_bento.audio.sniff import Kind

MAX_WAV_CHUNKS = 1_000  # there are a few tens, even with cue points and an embedded session
MAX_MP4_BOXES = 65_536  # two for each of the shortest fragments: 10 minutes of one AAC frame each

_RIFF_HEADER_BYTES = 12
_CHUNK_HEADER_BYTES = 8


def has_too_many_chunks(file: BinaryIO, kind: Kind) -> bool:
    """Whether the outermost chunks of a seekable file are more than its format may have here."""
    if kind is Kind.wav:
        return any(count > MAX_WAV_CHUNKS for count in _wav_chunks(file))
    return kind is Kind.mp4 and any(count > MAX_MP4_BOXES for count in _mp4_boxes(file))


def _wav_chunks(file: BinaryIO) -> Iterator[int]:
    """1, 2, 3, … for each chunk."""
    file.seek(0)
    order: Literal["big", "little"] = "little"
    if file.read(_RIFF_HEADER_BYTES)[:4] == b"RIFX":
        order = "big"
    count = 0
    while len(head := file.read(_CHUNK_HEADER_BYTES)) == _CHUNK_HEADER_BYTES:
        yield (count := count + 1)
        body_bytes = int.from_bytes(head[4:], order)
        file.seek(body_bytes + body_bytes % 2, os.SEEK_CUR)


def _mp4_boxes(file: BinaryIO) -> Iterator[int]:
    """1, 2, 3, … for each box."""
    end = file.seek(0, os.SEEK_END)
    offset = count = 0
    while offset < end:
        yield (count := count + 1)
        file.seek(offset)
        head = file.read(2 * _CHUNK_HEADER_BYTES)
        box_bytes = int.from_bytes(head[:4], "big")
        if box_bytes == 1:  # the length comes after the name, in 64 bits
            box_bytes = int.from_bytes(head[8:], "big")
        if box_bytes < _CHUNK_HEADER_BYTES:  # 0 is to the end of the file; others are nonsense
            return
        offset += box_bytes
