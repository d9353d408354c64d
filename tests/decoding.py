"""The decoder that tests share, and what its processes do.

Invariant: there is one fork server for all tests of a process, unless a test starts its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from magenta_bento.audio.decode import DecodedAudio, DecodeLimits, Decoder

GONE_S = 5.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@cache
def shared_decoder() -> Decoder:
    """Ends with this process, as a server's does."""
    return Decoder()


def decode_upload(path: Path, limits: DecodeLimits, decoder: Decoder | None = None) -> DecodedAudio:
    with path.open("rb") as file:
        return (decoder or shared_decoder()).decode(file, limits)


def fork_server_of(decoder: Decoder) -> psutil.Process:
    fork_server = decoder._fork_server
    assert fork_server is not None
    return psutil.Process(fork_server._process.pid)


def spent_s(decoder: Decoder) -> float:
    """Processor time, seconds, of a fork server and all that it has waited for."""
    times = fork_server_of(decoder).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def assert_idle(decoder: Decoder) -> None:
    """The fork server has no child, not even a zombie; what was just killed may take a moment."""
    deadline = time.monotonic() + GONE_S
    while left := fork_server_of(decoder).children():
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


@contextmanager
def all_gone(decoder: Decoder) -> Iterator[None]:
    """What the decoder has started before is gone soon after the block, the fork server too."""
    fork_server = fork_server_of(decoder)
    mine = [fork_server, *fork_server.children(recursive=True)]
    yield
    deadline = time.monotonic() + GONE_S
    while left := [process for process in mine if process.is_running()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)
