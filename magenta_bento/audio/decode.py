"""An upload -> float32 samples, decoded where it can do no harm.

A decoder is a large parser written in C, fed by strangers. It runs in a process of its own, a
worker (:mod:`magenta_bento.audio.decode_worker`) that a fork server has forked
(:mod:`magenta_bento.audio.fork_server`), with bounds on time, memory, files and seconds of audio,
without this process's environment, and in a session of its own, so that one signal ends it
together with its ffmpeg. What a worker says is a stranger's word too, and is checked.

Invariant: when ``decode`` returns or raises, its worker has ended or been killed, and nothing
of it is on disk: its files never had a name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from magenta_bento.audio.decode_worker import TOO_COSTLY
from magenta_bento.audio.limits import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ, DecodeLimits
from magenta_bento.errors import InvalidInput, NotReady, Overloaded, UndecodableAudio

__all__ = ["DecodeLimits", "DecodedAudio", "Decoder"]

_log = logging.getLogger(__name__)

_ATTEMPTS = 2  # a fork server may end, and is not the file's fault; two in a row are the host's
_KILL_S = 1.0  # for the fork server to kill a worker, wait for it and say so
_RETRY_AFTER_S = 1
_MESSAGE_BYTES = 4_096
_TAIL_BYTES = 2_000
_BROKE = "the decoder broke on this file: it is damaged or not audio"
_COMMAND = (sys.executable, "-P", "-m", "magenta_bento.audio.fork_server")
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# What Python and ffmpeg need to start. Anything else, a token above all, is not the fork server's.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "IMAGEIO_FFMPEG_EXE")


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


@dataclass(frozen=True)
class _Told:
    """What came of an order: a worker's verdict, and the fork server's word on how it ended."""

    verdict: bytes
    exit_status: int | None
    timed_out: bool


class Decoder:
    """Decodes uploads, several at once if several threads call it.

    It starts its fork server at once, and a new one whenever that has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below, and the order of orders
        self._fork_server: _ForkServer | None = _ForkServer()
        self._closed = False

    def decode(self, file: BinaryIO, limits: DecodeLimits) -> DecodedAudio:
        """Decodes an open file: MP3, WAV, FLAC, OGG (Vorbis or Opus), M4A or AAC.

        Blocks for at most a little over ``limits.timeout_s``; call it in a worker thread. A file
        that is cut off or damaged part-way gives what decodes.

        Args:
          file: One with a descriptor; where it stands does not matter, and is changed.
          limits: The bounds.

        Raises:
          UndecodableAudio: Not audio we read, empty, damaged, or too costly to decode.
          InvalidInput: Too long, or of too many channels or too high a rate; names the bound.
          NotReady: The decoder was closed.
          Overloaded: This host has no process to decode in.
        """
        for _ in range(_ATTEMPTS):
            with tempfile.TemporaryFile() as samples, tempfile.TemporaryFile() as complaints:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with ours:
                    with theirs:
                        given = (file.fileno(), theirs.fileno(), complaints.fileno())
                        fork_server = self._order(limits, [*given, samples.fileno()])
                    told = _listen(ours, limits.timeout_s)
                if told.exit_status is not None:
                    if refusal := _refusal(told, limits, complaints):
                        raise refusal
                    samples.seek(0)
                    return _understood(told.verdict, samples)
                with self._lock:
                    fork_server.kill()  # or it is dead already
        raise Overloaded("the host has no process to decode in", retry_after_s=_RETRY_AFTER_S)

    def close(self) -> None:
        """Ends the fork server, and with it every decoding that still runs."""
        with self._lock:
            self._closed = True
            fork_server, self._fork_server = self._fork_server, None
        if fork_server is not None:
            fork_server.close()

    def _order(self, limits: DecodeLimits, descriptors: list[int]) -> _ForkServer:
        """Has a worker forked; returns the fork server that was told to."""
        order = json.dumps(asdict(limits)).encode()
        with self._lock:
            if self._closed:
                raise NotReady.shutting_down()
            if self._fork_server is not None and self._fork_server.send(order, descriptors):
                return self._fork_server
            _log.warning("the fork server has ended: another one is started")
            if self._fork_server is not None:
                self._fork_server.kill()
            self._fork_server = _ForkServer()
            self._fork_server.send(order, descriptors)
            return self._fork_server


class _ForkServer:
    """This end of a fork server's process."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(_KILL_S)  # it is never full while the fork server is well
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                _COMMAND,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )

    def send(self, order: bytes, descriptors: list[int]) -> bool:
        """Sends one order; False if the fork server has ended."""
        if self._process.poll() is not None:
            return False
        try:
            socket.send_fds(self._orders, [order], descriptors)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets it end its workers and itself."""
        self._orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_S)
        self.kill()

    def kill(self) -> None:
        self._orders.close()
        self._process.kill()
        self._process.wait()


def _listen(channel: socket.socket, timeout_s: float) -> _Told:
    """What comes until the other ends are closed; in time, or the worker is killed."""
    verdict = last = b""
    timed_out = False
    deadline = time.monotonic() + timeout_s
    while True:
        channel.settimeout(max(deadline - time.monotonic(), 1e-3))
        try:
            message = channel.recv(_MESSAGE_BYTES)
        except TimeoutError:
            if timed_out:
                return _Told(verdict, None, timed_out)
            timed_out = True
            channel.shutdown(socket.SHUT_WR)  # has the fork server kill the worker
            deadline = time.monotonic() + _KILL_S
            continue
        if not message:
            return _Told(verdict, _exit_status(last), timed_out)
        verdict, last = verdict or message, message


def _exit_status(message: bytes) -> int | None:
    """The fork server's last word; None if it ended before it could say it."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(message)["exit"])
    return None


def _refusal(told: _Told, limits: DecodeLimits, complaints: BinaryIO) -> UndecodableAudio | None:
    """What to say of a worker that did not end by itself."""
    if told.timed_out:
        return UndecodableAudio(f"the audio took longer than {limits.timeout_s:g} s to decode")
    if told.exit_status == -signal.SIGKILL:
        return UndecodableAudio(TOO_COSTLY.format(limits.cpu_s))
    if told.exit_status != 0:
        _log.warning("decode worker ended with %s: %r", told.exit_status, _tail(complaints))
        return UndecodableAudio(_BROKE)
    return None


def _understood(verdict: bytes, samples: BinaryIO) -> DecodedAudio:
    """What a worker says it has decoded, checked, for it may be another's by now."""
    try:
        said = json.loads(verdict)
        if "message" in said:
            if said["refused"] == Overloaded.type:
                _log.error("a decoder could not write: %.100s", said["message"])
                raise Overloaded("the server is short of disk space", retry_after_s=_RETRY_AFTER_S)
            undecodable = said["refused"] == UndecodableAudio.type
            raise (UndecodableAudio if undecodable else InvalidInput)(str(said["message"]))
        rate_hz, channels = int(said["rate_hz"]), int(said["channels"])
        decoded = np.fromfile(samples, np.float32).reshape(int(said["samples"]), channels)
    except (ValueError, ArithmeticError, KeyError, TypeError) as error:
        _log.warning("decode worker gave no verdict but %r", verdict[:_TAIL_BYTES])
        raise UndecodableAudio(_BROKE) from error
    in_bounds = MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ and 1 <= channels <= MAX_CHANNELS
    if not (in_bounds and len(decoded)):
        raise UndecodableAudio(_BROKE)
    return DecodedAudio(decoded, rate_hz)


def _tail(file: BinaryIO) -> str:
    """The last words of a file of any size."""
    file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
    return file.read().decode(errors="replace").strip()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(_PACKAGE_PARENT), *filter(None, sys.path)]),
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",  # one thread forks; more would be lost on the way
        "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of address space
    }
