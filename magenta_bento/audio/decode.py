"""An upload -> float32 samples, decoded where it can do no harm.

A decoder is a large parser written in C, fed by strangers. For each upload a process is started
(:mod:`magenta_bento.audio.decode_worker`) that becomes ffmpeg under bounds on time, memory, files
and seconds of audio, without this process's environment. What it leaves in its output file is a
stranger's word too, and is checked.

Invariant: when ``decode`` returns or raises, its processes have ended or been killed, and
nothing of them is on disk: their files never had a name.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from magenta_bento.audio.container_chunks import MAX_MP4_BOXES, MAX_WAV_CHUNKS
from magenta_bento.audio.decode_limits import (
    MAX_CHANNELS,
    MAX_RATE_HZ,
    MAX_SAMPLE,
    MIN_RATE_HZ,
    DecodeLimits,
)
from magenta_bento.audio.decode_worker import (
    BY_SIGNAL,
    NO_PROCESS,
    TOO_MANY_CHUNKS,
    UNRECOGNISED,
)
from magenta_bento.errors import InvalidInput, NotReady, Overloaded, UndecodableAudio

__all__ = ["DecodeLimits", "DecodedAudio", "Decoder"]

ACCEPTED_FORMATS = "MP3, WAV, FLAC, OGG (Vorbis or Opus), M4A or AAC"

_log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-S", "-P", "-m", "magenta_bento.audio.decode_worker")
# All that a worker's environment holds. A token, above all, is not for it.
_ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "LC_ALL": "C.UTF-8"}
_KILL_S = 1.0  # for a worker to end what it has started
_RETRY_AFTER_S = 1
_OUTPUT_SLACK_BYTES = 1 << 20  # output beyond the bound shows that it was exceeded
_NO_ROOM = {256 - errno.ENOSPC, 256 - errno.EFBIG}  # ffmpeg's exit statuses
_LOG_HEAD_BYTES, _LOG_TAIL_BYTES = 65_536, 2_000
_DURATION = re.compile(rb"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the data, its size, encoding, Hz, channels
_AU_FLOAT32 = 6
_BLOCK_SAMPLES = 1 << 20
_NO_AUDIO = "the file holds no audio that decodes"
_BROKE = "the decoder broke on this file: it is damaged or not audio"


@dataclass(frozen=True)
class DecodedAudio:
    """Audio as it was in the file.

    Attributes:
      samples: float32 [T, C], T at least 1, C 1 to 8, all within ``MAX_SAMPLE``;
        full scale is -1 to 1.
      sample_rate_hz: 4,000 to 384,000.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int


class Decoder:
    """Decodes uploads, several at once if several threads call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below
        self._workers: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def decode(self, file: BinaryIO, limits: DecodeLimits) -> DecodedAudio:
        """Decodes an open file: MP3, WAV, FLAC, OGG (Vorbis or Opus), M4A or AAC.

        Blocks for at most a little over ``limits.timeout_s``; call it in a worker thread, which
        must not end before. A file that is cut off or damaged part-way gives what decodes.

        Args:
          file: One with a descriptor; where it stands does not matter, and is changed.
          limits: The bounds.

        Raises:
          UndecodableAudio: Not audio we read, empty, damaged, or too costly to decode.
          InvalidInput: Too long, or of too many channels or too high a rate; names the bound.
          NotReady: The decoder was closed.
          Overloaded: This host has no process to decode in, or no disk for the samples.
        """
        if not os.fstat(file.fileno()).st_size:
            raise UndecodableAudio("the file is empty: it holds no audio")
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
            self._run(limits, file, output, log)
            return _read_au(output, limits, _duration_s(log))

    def close(self) -> None:
        """Ends every decoding that still runs, and lets none begin."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.terminate()

    def _run(self, limits: DecodeLimits, file: BinaryIO, output: BinaryIO, log: BinaryIO) -> None:
        """Has the file decoded into ``output``."""
        file.seek(0)
        try:
            with self._lock:
                if self._closed:
                    raise NotReady.shutting_down()
                worker = _start(limits, file, output, log)
                self._workers.add(worker)
        except OSError as error:
            _log.error("no decoder could be started: %s", error)
            raise Overloaded(
                "the host has no process to decode in", retry_after_s=_RETRY_AFTER_S
            ) from error
        try:
            status = _wait(worker, limits.timeout_s)
        finally:
            with self._lock:
                self._workers.discard(worker)
        if self._closed:
            raise NotReady.shutting_down()
        if status is None:
            raise UndecodableAudio(f"the audio took longer than {limits.timeout_s:g} s to decode")
        _check_status(status, limits, log)


def _start(
    limits: DecodeLimits, file: BinaryIO, output: BinaryIO, log: BinaryIO
) -> subprocess.Popen[bytes]:
    from imageio_ffmpeg import get_ffmpeg_exe

    arguments = (
        os.getpid(),
        limits.cpu_s,
        limits.memory_bytes,
        limits.max_decoded_bytes + _OUTPUT_SLACK_BYTES,
        limits.max_seconds + 1,  # one second more than the bound shows that a file goes past it
        get_ffmpeg_exe(),
    )
    return subprocess.Popen(  # noqa: S603
        [*_COMMAND, *map(str, arguments)],
        stdin=file,
        stdout=output,
        stderr=log,
        cwd="/",
        env=_ENVIRONMENT,
        start_new_session=True,
    )


def _wait(worker: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """The worker's exit status; None if it took too long and was ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return worker.wait(timeout_s)
    worker.terminate()
    try:
        worker.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    return None


def _check_status(status: int, limits: DecodeLimits, log: BinaryIO) -> None:
    """Raises for each way to end that is not ffmpeg's own; errors of ffmpeg's leave samples."""
    if status == UNRECOGNISED:
        raise UndecodableAudio(f"the file is not audio in a format we read: {ACCEPTED_FORMATS}")
    if status == TOO_MANY_CHUNKS:
        raise UndecodableAudio(
            f"a WAV file may have {MAX_WAV_CHUNKS} chunks and an MP4 file {MAX_MP4_BOXES} boxes, "
            "and this one has more"
        )
    if status == NO_PROCESS or status < 0:  # the worker itself was killed: not the file's fault
        _log.error("a decoder ended with %s: %r", status, _tail(log))
        raise Overloaded("the host has no process to decode in", retry_after_s=_RETRY_AFTER_S)
    if status == BY_SIGNAL + signal.SIGKILL:
        raise UndecodableAudio(
            f"the audio takes more than {limits.cpu_s} s of processor time, "
            "or too much memory, to decode"
        )
    if status in _NO_ROOM:
        _log.error("a decoder could not write")
        raise Overloaded("the server is short of disk space", retry_after_s=_RETRY_AFTER_S)
    if BY_SIGNAL < status <= BY_SIGNAL + signal.SIGSYS:
        _log.warning("a decoder ended with signal %s: %r", status - BY_SIGNAL, _tail(log))
        raise UndecodableAudio(_BROKE)


def _read_au(output: BinaryIO, limits: DecodeLimits, claimed_s: float) -> DecodedAudio:
    """What a worker has written, checked, for it may be another's by now.

    ``claimed_s`` is how long the file says to be; it is only shown, for headers lie.
    """
    output.seek(0)
    header = output.read(_AU_HEADER.size)
    if len(header) < _AU_HEADER.size:
        raise UndecodableAudio(_NO_AUDIO)
    magic, offset, _, encoding, rate_hz, channels = _AU_HEADER.unpack(header)
    if magic != b".snd" or encoding != _AU_FLOAT32 or not channels > 0:
        raise UndecodableAudio(_BROKE)
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InvalidInput(
            f"the audio's sample rate must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz}"
        )
    if channels > MAX_CHANNELS:
        raise InvalidInput(f"the audio must have 1 to {MAX_CHANNELS} channels, got {channels}")
    samples = max(0, os.fstat(output.fileno()).st_size - offset) // (4 * channels)
    if not samples:
        raise UndecodableAudio("the file holds no audio: it has no samples")
    if samples > limits.max_seconds * rate_hz:
        claims_more = round(claimed_s) > limits.max_seconds  # else the figure would look allowed
        raise InvalidInput(
            f"the audio must last at most {limits.max_seconds:g} s, "
            + (f"got {claimed_s:.0f} s" if claims_more else "and goes on for longer")
        )
    if samples * channels * 4 > limits.max_decoded_bytes:
        raise InvalidInput(
            f"the audio ({channels} channels at {rate_hz} Hz) decodes to more than the bound "
            f"of {limits.max_decoded_bytes >> 20} MiB: send it at a lower rate or in stereo"
        )
    output.seek(offset)
    big_endian = np.fromfile(output, ">f4", samples * channels)
    decoded = big_endian.byteswap(inplace=True).view("<f4").reshape(-1, channels)
    _check_level(decoded)
    return DecodedAudio(decoded, rate_hz)


def _check_level(samples: NDArray[np.float32]) -> None:
    """Refuses float32 [T, C] that overflows in what comes after."""
    for start in range(0, len(samples), _BLOCK_SAMPLES):
        block = samples[start : start + _BLOCK_SAMPLES]
        peak = max(float(block.max()), -float(block.min()))  # not a number, if one sample is none
        if not math.isfinite(peak):
            raise UndecodableAudio("the audio holds samples that are not finite numbers")
        if peak > MAX_SAMPLE:
            raise InvalidInput(
                f"the audio's samples must be within {MAX_SAMPLE:g} times full scale, got {peak:g}"
            )


def _duration_s(log: BinaryIO) -> float:
    """What ffmpeg took from the upload's header; 0 if it said nothing."""
    log.seek(0)
    found = _DURATION.search(log.read(_LOG_HEAD_BYTES))
    if found is None:
        return 0.0
    hours, minutes, seconds = map(float, found.groups())
    return 3_600 * hours + 60 * minutes + seconds


def _tail(file: BinaryIO) -> str:
    """The last words of a file of any size."""
    file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
    return file.read().decode(errors="replace").strip()
