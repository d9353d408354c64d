"""What a file says about itself: who made it, from which words, with what.

One set of fields is written as ID3v2 (MP3), Vorbis comments (FLAC, OGG) and LIST/INFO (WAV).
Every form goes in front of the audio, so that streams carry it too.

Invariant: a tag is one line of printable text of bounded length, and never touches a sample.
"""

from __future__ import annotations

import io
import struct
import unicodedata
from dataclasses import dataclass, fields
from typing import Any

import mutagen.id3

MAX_TAG_CHARS = 500

_RIFF_IDS = {
    "title": b"INAM",
    "artist": b"IART",
    "comment": b"ICMT",
    "software": b"ISFT",
    "date": b"ICRD",
}
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # control, surrogate, line and paragraph separator


@dataclass(frozen=True)
class Tags:
    """The tags of one piece; an empty field is not written.

    Attributes:
      title: What the piece is called: the prompt, as a rule.
      artist: Who made it: the model.
      comment: What else a listener should know (seed, demo model).
      software: The program and version that wrote the file.
      date: ISO 8601, ``2026-01-31``.
    """

    title: str = ""
    artist: str = ""
    comment: str = ""
    software: str = ""
    date: str = ""

    def clean_fields(self) -> dict[str, str]:
        """The fields that hold something, as single lines of at most ``MAX_TAG_CHARS``."""
        pairs = ((field.name, one_line(getattr(self, field.name))) for field in fields(self))
        return {name: text for name, text in pairs if text}


def one_line(text: str) -> str:
    """``text`` without control characters and lone surrogates, its white space made single."""
    printable = "".join(" " if unicodedata.category(c) in _UNPRINTABLE else c for c in text)
    return " ".join(printable.split())[:MAX_TAG_CHARS].rstrip()


def id3v2(tags: Tags) -> bytes:
    """An ID3v2.4 tag in UTF-8, to stand in front of MP3 frames; b"" when there is nothing."""
    id3: Any = mutagen.id3  # says that it is typed, and is not
    frames = {
        "title": lambda text: id3.TIT2(encoding=3, text=text),
        "artist": lambda text: id3.TPE1(encoding=3, text=text),
        "comment": lambda text: id3.COMM(encoding=3, lang="eng", desc="", text=text),
        "software": lambda text: id3.TSSE(encoding=3, text=text),
        "date": lambda text: id3.TDRC(encoding=3, text=text),
    }
    tag = id3.ID3()
    for name, text in tags.clean_fields().items():
        tag.add(frames[name](text))
    if not tag:
        return b""
    file = io.BytesIO()
    tag.save(file, v2_version=4, padding=lambda info: 0)
    return file.getvalue()


def riff_info(tags: Tags) -> bytes:
    """A LIST/INFO chunk in UTF-8, to stand before a WAV's data chunk; b"" for no tags."""
    body = b""
    for name, text in tags.clean_fields().items():
        value = text.encode() + b"\0"
        body += _RIFF_IDS[name] + struct.pack("<I", len(value)) + value + b"\0" * (len(value) % 2)
    return b"LIST" + struct.pack("<I", 4 + len(body)) + b"INFO" + body if body else b""
