"""Frames, formats, and that the package stays light."""

import subprocess
import sys

import pytest

from magenta_bento.audio.formats import FRAME_SAMPLES, SAMPLE_RATE_HZ, AudioFormat, frames_for


@pytest.mark.parametrize(
    ("duration_s", "frames"),
    [(0.04, 1), (0.12, 3), (10, 250), (0.0400001, 2), (0.001, 1), (0.28, 7), (120.0, 3000)],
)
def test_frames_cover_the_duration(duration_s: float, frames: int) -> None:
    assert frames_for(duration_s) == frames


def test_every_whole_number_of_frames_is_itself() -> None:
    assert all(frames_for(n * 0.04) == n and frames_for(n / 25) == n for n in range(1, 90_001))


def test_a_frame_is_40_ms() -> None:
    assert FRAME_SAMPLES * 25 == SAMPLE_RATE_HZ


def test_formats() -> None:
    assert {f: f.media_type for f in AudioFormat} == {
        "mp3": "audio/mpeg",
        "wav": "audio/wav",
        "flac": "audio/flac",
        "ogg": "audio/ogg",
    }
    assert [f.extension for f in AudioFormat] == ["mp3", "wav", "flac", "ogg"]


@pytest.mark.parametrize("module", ["encode", "decode", "decode_worker"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, magenta_bento.audio.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    heavy = {"jax", "bentoml", "pydantic", "pydub", "imageio_ffmpeg", "ai_edge_litert"}
    assert not heavy & set(loaded.stdout.decode().split())
