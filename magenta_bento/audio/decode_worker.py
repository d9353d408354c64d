"""The process that decodes one upload, and may be killed at any moment.

    python -m magenta_bento.audio.decode_worker '{"path": …, "out": …, "limits": {…}}'

1. Bind this process by resource limits, which ffmpeg inherits.
2. Recognise the file by its bytes.
3. Decode it: libsndfile in blocks; what that can't open, pydub with ffmpeg.
4. Write float32 [T, C] to ``out`` and one line of JSON to stdout: the shape, or why not.

ffmpeg is told the demuxer (``-f``), so it never guesses a playlist or a script; none of these
demuxers opens a second file (MP4's external references are off by default), and ffmpeg lets a
local input open nothing on the network.

Invariant: memory does not grow with the length of what libsndfile decodes.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from magenta_bento.audio.limits import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ, DecodeLimits
from magenta_bento.audio.sniff import Kind, sniff
from magenta_bento.errors import InvalidInput, ServiceError, UndecodableAudio

TAKEN = "MP3, WAV, FLAC, OGG (Vorbis or Opus), M4A or AAC"

_BLOCK_SAMPLES = 8_192  # a block with damage in it is lost as a whole
_OPEN_FILES = 64
_FILE_SLACK_BYTES = 1 << 20
_UNKNOWN_SAMPLES = 1 << 62  # libsndfile says 2**63 - 1 when a header does not say
_CPUS = 2  # ffmpeg and OpenBLAS start a thread, and reserve memory, for every one they see
_LIBSNDFILE_KINDS = {Kind.wav, Kind.flac, Kind.ogg, Kind.mp3}
_LIBSNDFILE_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"}

Floats = NDArray[np.float32]  # float32 [T, C]


def main() -> None:
    """Reads the job from the command line and answers on stdout."""
    job = json.loads(sys.argv[1])
    path, limits = Path(job["path"]), DecodeLimits(**job["limits"])
    _bind(limits, path.stat().st_size)
    try:
        with Path(job["out"]).open("wb") as out:
            rate_hz, samples, channels = _decode(path, out, limits)
        verdict: dict[str, Any] = {"rate_hz": rate_hz, "samples": samples, "channels": channels}
    except ServiceError as error:
        verdict = {"refused": error.type, "message": error.message}
    except MemoryError:
        verdict = {
            "refused": UndecodableAudio.type,
            "message": f"decoding needs more than {limits.memory_bytes >> 20} MiB of memory",
        }
    print(json.dumps(verdict), flush=True)


def _bind(limits: DecodeLimits, input_bytes: int) -> None:
    bounds = [
        (resource.RLIMIT_CPU, math.ceil(limits.timeout_s)),
        (resource.RLIMIT_FSIZE, max(limits.max_decoded_bytes, input_bytes) + _FILE_SLACK_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ]
    if sys.platform == "linux":
        bounds.append((resource.RLIMIT_AS, limits.memory_bytes))  # macOS refuses to set it
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, random.sample(cpus, min(_CPUS, len(cpus))))
    for what, bound in bounds:
        hard = resource.getrlimit(what)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (bound, bound))


def _decode(path: Path, out: BinaryIO, limits: DecodeLimits) -> tuple[int, int, int]:
    """Sample rate in Hz, samples per channel, channels; the samples themselves go to ``out``."""
    with path.open("rb") as file:
        if not file.read(1):
            raise UndecodableAudio("the file is empty: it holds no audio")
        kind = sniff(file)
    if kind is None:
        raise UndecodableAudio(f"the file is not audio in a format we read: {TAKEN}")
    if kind in _LIBSNDFILE_KINDS:
        try:
            file = soundfile.SoundFile(path)
        except soundfile.LibsndfileError:
            pass  # such as FLAC in OGG
        else:
            with file:
                # A streamed FLAC does not say its length, and libsndfile loses its last block.
                if file.frames < _UNKNOWN_SAMPLES:
                    return _from_libsndfile(file, out, limits)
    return _from_ffmpeg(path, kind, out, limits)


def _from_libsndfile(
    file: soundfile.SoundFile, out: BinaryIO, limits: DecodeLimits
) -> tuple[int, int, int]:
    if file.format not in _LIBSNDFILE_FORMATS:
        raise UndecodableAudio(f"{file.format} is not a format we read: {TAKEN}")
    _check(file.samplerate, file.channels)

    def blocks() -> Iterator[Floats]:
        block: Floats = np.empty((_BLOCK_SAMPLES, file.channels), np.float32)
        while True:
            try:
                got = file.read(out=block)
            except soundfile.LibsndfileError:
                return  # damaged from here on: what decoded is used
            if not len(got):
                return
            yield got

    samples = _write(blocks(), file.samplerate, file.channels, file.frames, out, limits)
    return file.samplerate, samples, file.channels


def _from_ffmpeg(
    path: Path, kind: Kind, out: BinaryIO, limits: DecodeLimits
) -> tuple[int, int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydub warns when ffmpeg is not on PATH
        from imageio_ffmpeg import get_ffmpeg_exe
        from pydub import AudioSegment
        from pydub.exceptions import PydubException

    AudioSegment.converter = get_ffmpeg_exe()
    try:
        # Not ``from_file``: that asks ffprobe, which does not come with the ffmpeg wheel.
        # One second more than the bound shows that a file goes past it. pydub cuts to whole ms.
        segment = AudioSegment.from_file_using_temporary_files(
            str(path), format=kind.value, duration=limits.max_seconds + 1
        ).set_sample_width(2)
    except PydubException as error:
        raise UndecodableAudio(
            f"the file looks like {kind.value} but holds no audio that decodes"
        ) from error
    _check(segment.frame_rate, segment.channels)
    pcm = np.frombuffer(segment.raw_data, "<i2").reshape(-1, segment.channels)
    blocks = (
        pcm[at : at + _BLOCK_SAMPLES].astype(np.float32) / np.float32(32_768)
        for at in range(0, len(pcm), _BLOCK_SAMPLES)
    )
    samples = _write(blocks, segment.frame_rate, segment.channels, 0, out, limits)
    return segment.frame_rate, samples, segment.channels


def _check(rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InvalidInput(
            f"the audio's sample rate must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz}"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidInput(f"the audio must have 1 to {MAX_CHANNELS} channels, got {channels}")


def _write(
    blocks: Iterator[Floats],
    rate_hz: int,
    channels: int,
    claimed: int,
    out: BinaryIO,
    limits: DecodeLimits,
) -> int:
    """Writes blocks of float32 [n, channels] within the limits; returns samples per channel.

    ``claimed`` is what the header says that value to be. It is only ever shown: headers lie.
    """
    samples = 0
    for block in blocks:
        samples += len(block)
        if samples > limits.max_seconds * rate_hz:
            known = samples < claimed < _UNKNOWN_SAMPLES
            raise InvalidInput(
                f"the audio must last at most {limits.max_seconds:g} s, "
                + (f"got {claimed / rate_hz:.0f} s" if known else "and goes on for longer")
            )
        if samples * channels * 4 > limits.max_decoded_bytes:
            raise InvalidInput(
                f"the audio ({channels} channels at {rate_hz} Hz) decodes to more than the bound "
                f"of {limits.max_decoded_bytes >> 20} MiB: send it at a lower rate or in stereo"
            )
        if not np.isfinite(block).all():
            raise UndecodableAudio("the audio holds samples that are not finite numbers")
        block.tofile(out)
    if not samples:
        raise UndecodableAudio("the file holds no audio: it has no samples")
    return samples


if __name__ == "__main__":
    main()
