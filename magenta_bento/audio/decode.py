"""An upload -> float32 samples, decoded where it can do no harm.

A decoder is a large parser written in C, fed by strangers. It runs in a process of its own
(:mod:`magenta_bento.audio.decode_worker`) with bounds on time, memory, files and seconds of
audio, without this process's environment, and in a session of its own, so that one signal
ends it together with its ffmpeg.

Invariant: when ``decode_upload`` returns or raises, its temporary files are gone and its child
processes have ended or been killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magenta_bento.audio.limits import DecodeLimits
from magenta_bento.errors import InvalidInput, UndecodableAudio

__all__ = ["DecodeLimits", "Decoded", "decode_upload"]

_log = logging.getLogger(__name__)

_TAIL_BYTES = 2_000
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
# What Python and ffmpeg need to start. Anything else, a token above all, is not the child's.
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "IMAGEIO_FFMPEG_EXE")


@dataclass(frozen=True)
class Decoded:
    """Audio as it was in the file.

    Attributes:
      samples: float32 [T, C], T at least 1, C 1 to 8, all finite; full scale is -1 to 1.
      sample_rate_hz: 4,000 to 384,000.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int


def decode_upload(path: Path, limits: DecodeLimits) -> Decoded:
    """Decodes a file of any name: MP3, WAV, FLAC, OGG (Vorbis or Opus), M4A or AAC.

    Blocks for at most about ``limits.timeout_s`` seconds; call it in a worker thread. A file
    that is cut off or damaged part-way gives what decodes.

    Raises:
      UndecodableAudio: Not audio we read, empty, damaged, or too costly to decode.
      InvalidInput: Too long, or of too many channels or too high a rate; names the bound.
      OSError: ``path`` can't be read.
    """
    path = path.resolve(strict=True)
    with tempfile.TemporaryDirectory(prefix="magenta-bento-decode-") as home:
        out = Path(home) / "samples.f32"
        verdict = _verdict(path, out, limits)
        if message := verdict.get("message"):
            undecodable = verdict["refused"] == UndecodableAudio.type
            raise (UndecodableAudio if undecodable else InvalidInput)(message)
        samples = np.fromfile(out, np.float32).reshape(verdict["samples"], verdict["channels"])
    return Decoded(samples, verdict["rate_hz"])


def _verdict(path: Path, out: Path, limits: DecodeLimits) -> dict[str, Any]:
    """Runs the worker; returns the line it answered."""
    job = {"path": str(path), "out": str(out), "limits": asdict(limits)}
    home = out.parent
    complaints = home / "stderr.txt"
    with complaints.open("wb") as stderr:
        worker = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "magenta_bento.audio.decode_worker", json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=home,
            env=_environment(home),
            start_new_session=True,
        )
    try:
        answer, _ = worker.communicate(timeout=limits.timeout_s)
    except subprocess.TimeoutExpired:
        raise UndecodableAudio(
            f"the audio took longer than {limits.timeout_s:g} s to decode"
        ) from None
    finally:
        _end(worker)
    if worker.returncode != 0:
        _log.warning("decode worker ended with %d: %s", worker.returncode, _tail(complaints))
        if worker.returncode == -signal.SIGKILL:  # processor time, or the host's memory
            raise UndecodableAudio("the audio takes more time or memory to decode than we give")
        raise UndecodableAudio("the decoder broke on this file: it is damaged or not audio")
    verdict: dict[str, Any] = json.loads(answer)
    return verdict


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Ends the worker's whole session; a worker that ended well has left nothing behind."""
    if worker.returncode != 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
    worker.communicate()


def _tail(file: Path) -> str:
    """The last words of a file of any size."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        return opened.read().decode(errors="replace").strip()


def _environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(_PACKAGE_PARENT), *filter(None, sys.path)]),
        "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of address space
    }
