"""The decoder that tests share, and what its processes do."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from magenta_bento.audio.decode import DecodedAudio, DecodeLimits, Decoder

GONE_S = 5.0


@cache
def shared_decoder() -> Decoder:
    """Ends with this process, as a server's does."""
    return Decoder()


def decode_upload(path: Path, limits: DecodeLimits, decoder: Decoder | None = None) -> DecodedAudio:
    with path.open("rb") as file:
        return (decoder or shared_decoder()).decode(file, limits)


def workers() -> list[psutil.Process]:
    """This process's children that decode, and all that they have started."""
    return [
        process
        for child in psutil.Process().children()
        if is_worker(child)
        for process in [child, *child.children(recursive=True)]
    ]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "magenta_bento.audio.decode_worker" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.status() == psutil.STATUS_ZOMBIE


def spent_s() -> float:
    """Processor time, seconds, of all children that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def assert_idle() -> None:
    """Nothing decodes, and nothing is left of what did, not even a zombie."""
    assert workers() == []


@contextmanager
def all_gone() -> Iterator[None]:
    """What decodes before the block is gone soon after it."""
    processes = workers()
    assert processes
    yield
    deadline = time.monotonic() + GONE_S
    while left := [process for process in processes if process.is_running()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)
