"""Makers of audio files for tests: real ones by libsndfile and ffmpeg, hostile ones by hand.

Invariant: every maker is deterministic and writes under the directory it is given.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from magenta_bento.audio.encode import make_file_encoder
from magenta_bento.audio.formats import AudioFormat
from magenta_bento.audio.tags import Tags

TONE_HZ = 440.0


def tone(
    seconds: float, rate_hz: int = 48_000, channels: int = 2, hz: float = TONE_HZ
) -> NDArray[np.float32]:
    """A sine at half of full scale; float32 [T, channels]."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = 0.5 * np.sin(2 * np.pi * hz * t)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def tone_pcm(samples: int) -> NDArray[np.int16]:
    """A sine at 48 kHz, its right channel an octave up; int16 [samples, 2]."""
    t = np.arange(samples) / 48_000
    wave = np.stack([np.sin(2 * np.pi * hz * t) for hz in (TONE_HZ, 2 * TONE_HZ)], axis=1)
    return (wave * 16_000).astype(np.int16)


def loudest_hz(samples: NDArray[np.float32], rate_hz: int) -> float:
    """The frequency with the most energy in float32 [T]."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


def file_bytes(
    format: AudioFormat, pcm: NDArray[np.int16], tags: Tags, mp3_bitrate_kbps: int = 256
) -> bytes:
    """What ``/generate`` answers with for these samples, int16 [N, 2]."""
    encoder = make_file_encoder(format, tags, mp3_bitrate_kbps)
    return encoder.feed(pcm) + encoder.finish()


def by_libsndfile(
    path: Path, samples: NDArray[np.float32], rate_hz: int, format: str, subtype: str
) -> Path:
    """Writes in blocks: libsndfile's Vorbis writer overflows on a huge one."""
    with soundfile.SoundFile(path, "w", rate_hz, samples.shape[1], subtype, format=format) as out:
        for start in range(0, len(samples), 48_000):
            out.write(samples[start : start + 48_000])
    return path


def by_ffmpeg(path: Path, samples: NDArray[np.float32], rate_hz: int, *options: str) -> Path:
    """Encodes with ffmpeg; ``options`` choose codec and container."""
    source = [*("-f", "f32le", "-ar", str(rate_hz), "-ac", str(samples.shape[1])), "-i", "pipe:0"]
    ffmpeg(*source, *options, str(path), stdin=samples.tobytes())
    return path


def ffmpeg(*arguments: str, stdin: bytes = b"") -> bytes:
    """Runs ffmpeg; returns its stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def wav_bytes(
    data: bytes,
    *,
    rate_hz: int = 48_000,
    channels: int = 1,
    bits: int = 16,
    code: int = 1,
    claimed_bytes: int | None = None,
) -> bytes:
    """A WAV whose header says what it is told to, true or not."""
    block = channels * bits // 8
    fmt = struct.pack(
        "<IHHIIHH", 16, code, channels, rate_hz, (rate_hz * block) % 2**32, block, bits
    )
    size = len(data) if claimed_bytes is None else claimed_bytes
    riff = struct.pack("<I", min(36 + size, 2**32 - 1))
    return b"RIFF" + riff + b"WAVEfmt " + fmt + b"data" + struct.pack("<I", size) + data


def silent_flac(path: Path, seconds: int) -> Path:
    """A long silence in few bytes: 8 kHz mono."""
    block = np.zeros(8_000 * 60, np.int16)
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16", format="FLAC") as out:
        for _ in range(seconds // 60):
            out.write(block)
    return path


def id3_picture(size_bytes: int) -> bytes:
    """An ID3v2.3 tag that holds one "picture" of zeros and 0xFF."""
    picture = (b"\xff\xfb\x90\x00" + bytes(60)) * (size_bytes // 64)
    body = b"\0image/jpeg\0\x03\0" + picture
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    n = len(frame)
    size = bytes([n >> 21 & 127, n >> 14 & 127, n >> 7 & 127, n & 127])
    return b"ID3\x03\0\0" + size + frame
