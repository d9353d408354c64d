"""What an honest upload costs on this machine, so that bounds on work hold on any machine.

A test that bounds time compares it with decodes of one reference file in the same run: a bound
in seconds would say more about the machine, and about what else it does, than about the code.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from audio_files import by_ffmpeg, tone
from decoding import decode_upload, spent_s

from magenta_bento.audio.decode import DecodeLimits

SECONDS = 60.0
LIMITS = DecodeLimits.for_seconds(600)
TRIES = 3


@cache
def _file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        aac = ("-c:a", "aac", "-f", "ipod")
        return by_ffmpeg(Path(folder) / "reference", tone(SECONDS), 48_000, *aac).read_bytes()


def _decode() -> tuple[float, float]:
    """Processor time and time, seconds, of one decode of the reference."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(_file())
        file.flush()
        before_s, began = spent_s(), time.monotonic()
        decode_upload(Path(file.name), LIMITS)
        return spent_s() - before_s, time.monotonic() - began


@cache
def reference_cpu_s() -> float:
    """Processor time, seconds, of the reference decode: the most of a few."""
    with tempfile.NamedTemporaryFile() as file:  # the first one has cold caches
        file.write(_file())
        file.flush()
        decode_upload(Path(file.name), LIMITS)
    return max(_decode()[0] for _ in range(TRIES))


def reference_s() -> float:
    """How long the reference decode takes as things are now, seconds: the most of a few."""
    reference_cpu_s()
    return max(_decode()[1] for _ in range(TRIES))


@contextmanager
def as_fast_as(decodes: float) -> Iterator[None]:
    """The block takes less time than so many reference decodes before or after it."""
    before_s = reference_s()
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    if took_s >= decodes * before_s:  # the machine may have become busy meanwhile
        assert took_s < decodes * reference_s(), f"{took_s} s; a reference decode: {before_s} s"
