"""What a worker does with one upload; it may be killed at any moment.

The fork server has forked it (:mod:`magenta_bento.audio.fork_server`), with four open descriptors:
the upload, where the verdict goes, where complaints go, and where the samples go.

1. Bind this process by resource limits, which ffmpeg inherits.
2. Recognise the file by its bytes.
3. Decode it: libsndfile in blocks; what that can't open, and Opus, ffmpeg and pydub.
4. Write the samples, float32 [T, C], and one message of JSON: their shape, or why not.

ffmpeg is told the demuxer (``-f``), so it never guesses a playlist or a script, and has no
protocol but its open descriptors: it can open no second file and no socket, whatever a file
refers to.

Invariant: memory does not grow with the length of what libsndfile decodes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from magenta_bento.audio import sandbox
from magenta_bento.audio.chunks import check_chunks
from magenta_bento.audio.limits import (
    MAX_CHANNELS,
    MAX_RATE_HZ,
    MAX_SAMPLE,
    MIN_RATE_HZ,
    DecodeLimits,
)
from magenta_bento.audio.sniff import Kind, sniff
from magenta_bento.errors import InvalidInput, Overloaded, ServiceError, UndecodableAudio

TAKEN = "MP3, WAV, FLAC, OGG (Vorbis or Opus), M4A or AAC"
TOO_COSTLY = "the audio takes more than {} s of processor time, or too much memory, to decode"

DESCRIPTORS = 4
UPLOAD, VERDICT, COMPLAINTS, SAMPLES = range(DESCRIPTORS)

_BLOCK_SAMPLES = 8_192  # a block with damage in it is lost as a whole
_UNKNOWN_SAMPLES = 1 << 62  # libsndfile says 2**63 - 1 when a header does not say
_PCM_BYTES = 2
_FULL_SCALE = np.float32(32_768)  # of int16, as float is -1 to 1
_WAV_HEADER_BYTES = 4_096  # more than ffmpeg ever writes
_LIBSNDFILE_KINDS = {Kind.wav, Kind.flac, Kind.ogg, Kind.mp3}
_LIBSNDFILE_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"}

Floats = NDArray[np.float32]  # float32 [T, C]


def main(order: bytes) -> None:
    """Decodes by the limits in ``order`` and sends the verdict."""
    limits = DecodeLimits(**json.loads(order))
    sandbox.limit_resources(limits, os.fstat(UPLOAD).st_size)
    try:
        with open(UPLOAD, "rb") as upload, open(SAMPLES, "wb") as out:  # noqa: PTH123
            rate_hz, samples, channels = _decode(upload, out, limits)
        verdict: dict[str, Any] = {"rate_hz": rate_hz, "samples": samples, "channels": channels}
    except ServiceError as error:
        verdict = {"refused": error.type, "message": error.message}
    except MemoryError:
        verdict = {
            "refused": UndecodableAudio.type,
            "message": f"decoding needs more than {limits.memory_bytes >> 20} MiB of memory",
        }
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise  # our own bound: it is the file
        # The upload is open already: it is the host.
        # Nothing is printed: what is printed goes to the same disk.
        told = error.strerror or "a write fell short"
        verdict = {"refused": Overloaded.type, "message": told}
    os.write(VERDICT, json.dumps(verdict).encode())


def ffmpeg_exe() -> str:
    """The path of ffmpeg; looked for once a process."""
    from imageio_ffmpeg import get_ffmpeg_exe

    exe: str = get_ffmpeg_exe()
    return exe


def ffmpeg_command(demuxer: str, limits: DecodeLimits) -> list[str]:
    """ffmpeg from its standard input to 16-bit WAV on its standard output."""
    return [
        *(ffmpeg_exe(), "-nostdin", "-v", "error"),
        *("-protocol_whitelist", "fd,pipe", "-threads", "1", "-filter_threads", "1"),
        *("-f", demuxer, "-i", "fd:", "-vn", "-map_metadata", "-1"),
        # One second more than the bound shows that a file goes past it.
        *("-t", f"{limits.max_seconds + 1:.3f}", "-c:a", "pcm_s16le"),
        *("-flush_packets", "0", "-f", "wav", "pipe:1"),
    ]


def _decode(upload: BinaryIO, out: BinaryIO, limits: DecodeLimits) -> tuple[int, int, int]:
    """Sample rate in Hz, samples per channel, channels; the samples themselves go to ``out``."""
    if not os.fstat(UPLOAD).st_size:
        raise UndecodableAudio("the file is empty: it holds no audio")
    kind = sniff(upload)
    if kind is None:
        raise UndecodableAudio(f"the file is not audio in a format we read: {TAKEN}")
    check_chunks(upload, kind)
    os.lseek(UPLOAD, 0, os.SEEK_SET)
    if kind in _LIBSNDFILE_KINDS:
        try:
            file = soundfile.SoundFile(UPLOAD, closefd=False)
        except soundfile.LibsndfileError:
            pass  # such as FLAC in OGG
        else:
            with file:
                if file.subtype == "OPUS":
                    # Of all formats it takes longest to decode, and ffmpeg takes two thirds of
                    # libsndfile's time. Its length is in its last page, so take its word for it.
                    _check_length(file.frames, file.samplerate, file.frames, limits)
                # A streamed FLAC does not say its length, and libsndfile loses its last block.
                elif file.frames < _UNKNOWN_SAMPLES:
                    return _from_libsndfile(file, out, limits)
        os.lseek(UPLOAD, 0, os.SEEK_SET)
    return _from_ffmpeg(kind, out, limits)


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


def _from_ffmpeg(kind: Kind, out: BinaryIO, limits: DecodeLimits) -> tuple[int, int, int]:
    from pydub import AudioSegment
    from pydub.exceptions import PydubException

    # We start ffmpeg, because pydub can't be told of protocols; pydub reads what it writes.
    try:
        segment = AudioSegment(data=_wav_by_ffmpeg(kind, limits))
    except PydubException as error:
        raise UndecodableAudio(f"the {kind.value} file holds no audio that decodes") from error
    rate_hz, channels = segment.frame_rate, segment.channels
    _check(rate_hz, channels)
    whole = len(segment.raw_data) // segment.frame_width  # ffmpeg may have been cut off
    pcm = np.frombuffer(segment.raw_data, "<i2", whole * channels).reshape(-1, channels)
    blocks = (
        pcm[at : at + _BLOCK_SAMPLES].astype(np.float32) / _FULL_SCALE
        for at in range(0, len(pcm), _BLOCK_SAMPLES)
    )
    return rate_hz, _write(blocks, rate_hz, channels, 0, out, limits), channels


def _wav_by_ffmpeg(kind: Kind, limits: DecodeLimits) -> bytes:
    """A 16-bit WAV: all of it, or enough to show that it decodes to more than the bound."""
    worker = os.getpid()
    most = limits.max_decoded_bytes * _PCM_BYTES // 4 + _WAV_HEADER_BYTES
    with subprocess.Popen(  # noqa: S603
        ffmpeg_command(kind.value, limits),
        stdin=UPLOAD,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: sandbox.die_with_parent(
            worker
        ),  # sound, for this process has one thread
    ) as ffmpeg:
        wav = cast("BinaryIO", ffmpeg.stdout).read(most)
        if len(wav) == most:
            ffmpeg.kill()
            return wav
    if ffmpeg.returncode != 0:
        if ffmpeg.returncode == -signal.SIGKILL:
            raise UndecodableAudio(TOO_COSTLY.format(limits.cpu_s))
        raise UndecodableAudio(f"the {kind.value} file holds no audio that decodes")
    return wav


def _check(rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InvalidInput(
            f"the audio's sample rate must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz}"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidInput(f"the audio must have 1 to {MAX_CHANNELS} channels, got {channels}")


def _check_length(samples: int, rate_hz: int, claimed: int, limits: DecodeLimits) -> None:
    """Refuses so many samples per channel; ``claimed`` is how many there are, by the header."""
    if samples > limits.max_seconds * rate_hz:
        known = samples <= claimed < _UNKNOWN_SAMPLES
        raise InvalidInput(
            f"the audio must last at most {limits.max_seconds:g} s, "
            + (f"got {claimed / rate_hz:.0f} s" if known else "and goes on for longer")
        )


def _write(
    blocks: Iterator[Floats],
    rate_hz: int,
    channels: int,
    claimed: int,
    out: BinaryIO,
    limits: DecodeLimits,
) -> int:
    """Writes blocks of float32 [n, channels] within the limits; returns samples per channel.

    ``claimed`` is what the header says that value to be; it is only shown, for headers lie.
    """
    samples = 0
    for block in blocks:
        samples += len(block)
        _check_length(samples, rate_hz, claimed, limits)
        if samples * channels * 4 > limits.max_decoded_bytes:
            raise InvalidInput(
                f"the audio ({channels} channels at {rate_hz} Hz) decodes to more than the bound "
                f"of {limits.max_decoded_bytes >> 20} MiB: send it at a lower rate or in stereo"
            )
        peak = float(np.abs(block).max())  # not a number, if one sample is none
        if not math.isfinite(peak):
            raise UndecodableAudio("the audio holds samples that are not finite numbers")
        if peak > MAX_SAMPLE:
            raise InvalidInput(
                f"the audio's samples must be within {MAX_SAMPLE:g} times full scale, got {peak:g}"
            )
        block.tofile(out)
    if not samples:
        raise UndecodableAudio("the file holds no audio: it has no samples")
    return samples
