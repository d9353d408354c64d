"""BentoML's own Python client, as docs/examples.md shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import pytest
import soundfile
from audio_files import by_libsndfile, tone
from bentoml.exceptions import BentoMLException
from mutagen.mp3 import MP3
from serving import Server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with bentoml.SyncHTTPClient(server.url) as made:
        yield made


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client") / "My Song.wav"
    return by_libsndfile(path, tone(1.0), 48_000, "WAV", "PCM_16")


def seconds(path: Any) -> float:
    assert isinstance(path, Path)
    return float(soundfile.info(path).duration)


def test_text(client: Any) -> None:
    path = client.generate_text(prompt="funk", duration=2)
    assert seconds(path) == pytest.approx(2, abs=0.1)
    assert MP3(path).info.sample_rate == 48_000


def test_text_in_another_format(client: Any) -> None:
    path = client.generate_text(prompt="funk", duration=0.2, format="flac", seed=1, top_k=20)
    assert soundfile.info(path).format == "FLAC"


def test_audio(client: Any, song: Path) -> None:
    assert seconds(client.generate_audio(audio_file=song, duration=1)) == pytest.approx(1, abs=0.1)


def test_audio_with_a_prompt(client: Any, song: Path) -> None:
    path = client.generate_audio(audio_file=song, prompt="808", text_weight=2.0, duration=1)
    assert seconds(path) == pytest.approx(1, abs=0.1)


def test_a_blend_of_texts(client: Any) -> None:
    path = client.generate_blend(
        text_prompts=["warm, slow strings", "jazz"], text_weights=[2.0, 1.0], duration=1
    )
    assert seconds(path) == pytest.approx(1, abs=0.1)


def test_a_blend_of_texts_and_files(client: Any, song: Path) -> None:
    path = client.generate_blend(
        text_prompts=["jazz"],
        text_weights=[1.0],
        audio_files=[song, song],
        audio_weights=[1.0, 0.5],
        duration=1,
    )
    assert seconds(path) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("prompt", ["808", "true", "null", '"quoted"', "[brackets]", "🎷"])
def test_a_prompt_arrives_as_given(client: Any, prompt: str) -> None:
    assert embedding(client.embed_text(prompt=prompt))["prompt"] == prompt


@pytest.mark.parametrize("prompt", ["808", "true", "null", '"quoted"', "[brackets]"])
def test_a_prompt_beside_a_file_arrives_as_given(client: Any, song: Path, prompt: str) -> None:
    path = client.generate_audio(audio_file=song, prompt=prompt, duration=0.04, format="flac")
    assert soundfile.SoundFile(path).title == prompt


def test_embedding_a_text(client: Any) -> None:
    body = embedding(client.embed_text(prompt="funk"))
    mapped = embedding(client.embed_text(prompt="funk", use_mapper=True))
    assert mapped["embedding"] != body["embedding"]


def test_embedding_audio(client: Any, song: Path) -> None:
    assert embedding(client.embed_audio(audio_file=song))["filename"] == song.name


def embedding(body: Any) -> dict[str, Any]:
    fields: dict[str, Any] = body if isinstance(body, dict) else body.model_dump()
    assert len(fields["embedding"]) == 768
    assert list(fields["shape"]) == [768]
    assert len(fields["tokens"]) == 12
    return fields


def test_an_error_says_what_is_wrong(client: Any) -> None:
    with pytest.raises(BentoMLException, match="duration: must be at most 120 seconds"):
        client.generate_text(prompt="funk", duration=121)
