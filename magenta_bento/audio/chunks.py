"""How many chunks a container has, before a decoder looks at each of them.

WAV and MP4 are a row of chunks (MP4's are called boxes), each with its length. One of 8 bytes
costs a decoder a turn of its loop: 50 MB of them cost seconds, and hold no sound.

Invariant: a file with more chunks than any honest one is refused at a cost that its length has
no part in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from magenta_bento.audio.sniff import Kind
from magenta_bento.errors import UndecodableAudio

MAX_WAV_CHUNKS = 1_000  # there are a few tens, even with cue points and an embedded session
MAX_MP4_BOXES = 65_536  # two for each of the shortest fragments: 10 minutes of one AAC frame each

_RIFF_HEADER_BYTES = 12
_CHUNK_HEADER_BYTES = 8


def check_chunks(file: BinaryIO, kind: Kind) -> None:
    """Counts the outermost chunks of a seekable file.

    Raises:
      UndecodableAudio: There are too many.
    """
    if kind is Kind.wav:
        _check(_wav_chunks(file), MAX_WAV_CHUNKS, "a WAV file", "chunks")
    elif kind is Kind.mp4:
        _check(_mp4_boxes(file), MAX_MP4_BOXES, "an MP4 file", "boxes")


def _check(chunks: Iterator[None], most: int, what: str, of_what: str) -> None:
    for count, _ in enumerate(chunks, 1):
        if count > most:
            raise UndecodableAudio(f"{what} may have {most} {of_what}, and this one has more")


def _wav_chunks(file: BinaryIO) -> Iterator[None]:
    file.seek(0)
    size = ">I" if file.read(_RIFF_HEADER_BYTES)[:4] == b"RIFX" else "<I"
    while len(head := file.read(_CHUNK_HEADER_BYTES)) == _CHUNK_HEADER_BYTES:
        yield
        (body_bytes,) = struct.unpack(size, head[4:])
        file.seek(body_bytes + body_bytes % 2, os.SEEK_CUR)


def _mp4_boxes(file: BinaryIO) -> Iterator[None]:
    end = file.seek(0, os.SEEK_END)
    at = 0
    while at < end:
        yield
        file.seek(at)
        head = file.read(2 * _CHUNK_HEADER_BYTES)
        box_bytes = int.from_bytes(head[:4], "big")
        if box_bytes == 1:  # the length comes after the name, in 64 bits
            box_bytes = int.from_bytes(head[8:], "big")
        if box_bytes < _CHUNK_HEADER_BYTES:  # 0 is to the end of the file; others are nonsense
            return
        at += box_bytes
