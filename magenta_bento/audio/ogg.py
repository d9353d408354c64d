"""OGG pages with a serial number of our choice.

libsndfile numbers each OGG stream at random, so that the same music would come out as other
bytes each time. The number only has to differ between streams in one file; there is one.

Invariant: pages leave whole, in order, and with a checksum that is right.
"""

from __future__ import annotations

import io

from mutagen.ogg import OggPage

SERIAL = 1
_HEADER_BYTES = 27  # the last of them counts the segment sizes that follow (RFC 3533, section 6)


class SerialFilter:
    """Renumbers a stream of OGG pages that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = b""

    def __call__(self, data: bytes) -> bytes:
        """Takes the next bytes; gives those of the pages that are complete now."""
        self._buffer += data
        pages = io.BytesIO()
        while (size := _page_bytes(self._buffer)) is not None and size <= len(self._buffer):
            page = OggPage(io.BytesIO(self._buffer[:size]))
            page.serial = SERIAL
            pages.write(page.write())
            self._buffer = self._buffer[size:]
        return pages.getvalue()


def _page_bytes(data: bytes) -> int | None:
    """The size of the page that ``data`` begins with; None while that can't be told."""
    if len(data) < _HEADER_BYTES:
        return None
    segments = data[_HEADER_BYTES - 1]
    if len(data) < _HEADER_BYTES + segments:
        return None
    return _HEADER_BYTES + segments + sum(data[_HEADER_BYTES : _HEADER_BYTES + segments])
