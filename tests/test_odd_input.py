"""What looks wrong and is right: it must work, and arrive as it was typed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soundfile
from audio_files import by_ffmpeg, by_libsndfile, id3_picture, tone, wav_bytes
from numpy.typing import NDArray
from serving import Server

ENCODINGS = ["multipart", "urlencoded", "json"]
ODD_PROMPTS = [
    "808",
    "8.08",
    "-1",
    "1e9",
    "NaN",
    "true",
    "null",
    '"quoted"',
    "[brackets]",
    '["a", "b"]',
    '{"a": 1}',
    "{}",
    "[",
    "🎷🔥",
    "👩‍👩‍👧 family",
    "موسيقى هادئة",
    "שקט",
    "静かなピアノ",
    "조용한 피아노",
    "größe",
    "e\u0301 is not é",
    "two\nlines",
    "a&b=c;d",
    "50% funk + 50% soul %41",
    "http://example.com/a.wav",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "{{7*7}} ${x} %s",
    "back\\slash",
    "a, b, c",
    " spaces around ",
    "x" * 1000,
    "🎷" * 1000,
]

Reply = requests.Response


@pytest.fixture(scope="module")
def wav() -> bytes:
    return wav_bytes((tone(0.2, channels=1) * 30_000).astype("<i2").tobytes())


@pytest.fixture(autouse=True)
def nothing_left(server: Server) -> Iterator[None]:
    yield
    assert [path for path in server.temp.rglob("*") if not path.name.startswith("bentoml-")] == []


def post(server: Server, route: str, **how: Any) -> Reply:
    reply = requests.post(f"{server.url}{route}", timeout=120, **how)
    assert reply.status_code == 200, reply.text[:500]
    return reply


def in_encoding(encoding: str, fields: dict[str, Any]) -> dict[str, Any]:
    if encoding == "multipart":
        return {"files": [(name, (None, str(value))) for name, value in fields.items()]}
    return {"data" if encoding == "urlencoded" else "json": fields}


def embedded(server: Server, name: str, data: bytes) -> dict[str, Any]:
    body: dict[str, Any] = post(server, "/embed/audio", files={"audio_file": (name, data)}).json()
    assert len(body["embedding"]) == 768
    return body


def pcm(reply: Reply) -> NDArray[np.int16]:
    samples, _ = soundfile.read(io.BytesIO(reply.content), dtype="int16")
    return samples


# Prompts


@pytest.mark.parametrize("prompt", ODD_PROMPTS, ids=lambda p: ascii(p)[:20])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_odd_prompt_arrives_as_typed(server: Server, encoding: str, prompt: str) -> None:
    body = post(server, "/embed/text", **in_encoding(encoding, {"prompt": prompt})).json()
    assert body["prompt"] == prompt


@pytest.mark.parametrize("prompt", ODD_PROMPTS, ids=lambda p: ascii(p)[:20])
def test_an_odd_prompt_makes_music(server: Server, prompt: str) -> None:
    fields = {"prompt": prompt, "duration": 0.04, "format": "wav"}
    reply = post(server, "/generate/text", data=fields)
    assert soundfile.info(io.BytesIO(reply.content)).frames == 1_920


@pytest.mark.parametrize("prompt", ["808", "true", "null", '"quoted"', "[brackets]", "🎷"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_odd_prompt_in_a_blend(server: Server, encoding: str, prompt: str) -> None:
    """Alone, it is not taken for a list of another kind."""
    rest = {"duration": 0.2, "seed": 1, "format": "wav"}
    fields = {"text_prompts": prompt, **rest}
    blended = post(server, "/generate/blend", **in_encoding(encoding, fields))
    alone = post(server, "/generate/text", json={"prompt": prompt, **rest})
    np.testing.assert_allclose(pcm(blended), pcm(alone), atol=1)


@pytest.mark.parametrize("prompt", ["808", "true", '["a", "b"]', "🎷"])
def test_an_odd_prompt_beside_audio(server: Server, wav: bytes, prompt: str) -> None:
    fields = {"prompt": prompt, "duration": 0.04}
    post(server, "/generate/audio", files={"audio_file": wav}, data=fields)


def test_a_form_that_is_not_escaped(server: Server) -> None:
    """As ``curl -d 'prompt=größe 東京'`` sends it."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = post(server, "/embed/text", data="prompt=größe 東京".encode(), headers=headers)
    assert reply.json()["prompt"] == "größe 東京"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", ""])
def test_an_odd_content_type(server: Server, kind: str) -> None:
    body = json.dumps({"prompt": "größe"}).encode()
    reply = post(server, "/embed/text", data=body, headers={"Content-Type": kind})
    assert reply.json()["prompt"] == "größe"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_in_another_unicode(server: Server, encoding: str) -> None:
    body = json.dumps({"prompt": "größe"}, ensure_ascii=False).encode(encoding)
    reply = post(server, "/embed/text", data=body, headers={"Content-Type": "application/json"})
    assert reply.json()["prompt"] == "größe"


@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
def test_an_optional_field_left_empty_in_a_form_was_not_given(
    server: Server, encoding: str
) -> None:
    fields = {"prompt": "funk", "seed": "", "duration": "0.04", "top_k": "", "format": ""}
    reply = post(server, "/generate/text", **in_encoding(encoding, fields))
    assert reply.headers["Content-Type"] == "audio/mpeg"


def test_a_file_field_left_empty_in_a_form_was_not_given(server: Server) -> None:
    """As a browser sends it: a file without a name and without bytes."""
    body = (
        '--x\r\nContent-Disposition: form-data; name="text_prompts"\r\n\r\nfunk\r\n'
        '--x\r\nContent-Disposition: form-data; name="duration"\r\n\r\n0.04\r\n'
        '--x\r\nContent-Disposition: form-data; name="audio_files"; filename=""\r\n'
        "Content-Type: application/octet-stream\r\n\r\n\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    post(server, "/generate/blend", data=body.encode(), headers=headers)


def test_null_in_json_was_not_given(server: Server) -> None:
    fields = {"prompt": "funk", "seed": None, "duration": 0.04, "format": None}
    post(server, "/generate/text", json=fields)


@pytest.mark.parametrize("seed", ["0", "4294967295", "007"])
def test_an_odd_seed(server: Server, seed: str) -> None:
    reply = post(server, "/generate/text", data={"prompt": "a", "duration": 0.04, "seed": seed})
    assert reply.headers["X-Seed"] == str(int(seed))


@pytest.mark.parametrize(
    "fields", [{"temperature": "0"}, {"top_k": "1024"}, {"guidance": "-1"}, {"guidance": "6.8"}]
)
def test_the_ends_of_a_range(server: Server, fields: dict[str, str]) -> None:
    post(server, "/generate/text", data={"prompt": "a", "duration": 0.04, **fields})


# Weights


@pytest.mark.parametrize("weight", ["2.0", "2", "[2.0]", "2e0", " 2.0 "])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_single_weight(server: Server, encoding: str, weight: str) -> None:
    fields = {"text_prompts": "funk", "text_weights": weight, "duration": 0.04}
    post(server, "/generate/blend", **in_encoding(encoding, fields))


@pytest.mark.parametrize("weights", [2.0, 2, [2.0]])
def test_a_single_weight_as_a_number(server: Server, weights: Any) -> None:
    fields = {"text_prompts": "funk", "text_weights": weights, "duration": 0.04}
    post(server, "/generate/blend", json=fields)


def test_a_single_weight_of_a_file(server: Server, wav: bytes) -> None:
    fields = {"audio_weights": "2.0", "duration": 0.04}
    post(server, "/generate/blend", files={"audio_files": wav}, data=fields)


def test_a_negative_weight_steers_away(server: Server) -> None:
    fields = {"text_prompts": "funk,jazz", "text_weights": "2,-1", "duration": 0.04}
    post(server, "/generate/blend", data=fields)


def test_repeated_weights(server: Server) -> None:
    fields = {"text_prompts": ["funk", "jazz"], "text_weights": ["2", "1"], "duration": 0.04}
    post(server, "/generate/blend", data=fields)


# Files


@pytest.mark.parametrize("name", ["A.WAV", "a", "a.mp3", "a.txt", ".wav", "a.tar.gz", "音 楽.wav"])
def test_a_name_does_not_matter(server: Server, wav: bytes, name: str) -> None:
    assert embedded(server, name, wav)["filename"] == name


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    return by_libsndfile(path, tone(3.0), 48_000, "MP3", "MPEG_LAYER_III").read_bytes()


def test_an_mp3_with_a_large_picture(server: Server, mp3: bytes) -> None:
    with_picture = id3_picture(10_000_000) + mp3
    plain = embedded(server, "a.mp3", mp3)["embedding"]
    assert embedded(server, "b.mp3", with_picture)["embedding"] == pytest.approx(plain, abs=1e-4)


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Long enough that a cut leaves more than the headers."""
    folder, sound = tmp_path_factory.mktemp("long"), tone(15.0)
    kinds = {"mp3": ("MP3", "MPEG_LAYER_III"), "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS")}
    return {
        name: by_libsndfile(folder / name, sound, 48_000, *kind).read_bytes()
        for name, kind in kinds.items()
    }


@pytest.mark.parametrize("format", ["mp3", "vorbis", "opus"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_file_that_was_cut_off(
    server: Server, long_files: dict[str, bytes], format: str, part: float
) -> None:
    data = long_files[format]
    embedded(server, "cut", data[: int(len(data) * part)])


@pytest.mark.parametrize(
    ("rate_hz", "channels", "subtype"),
    [
        (8_000, 1, "PCM_U8"),
        (11_025, 2, "PCM_16"),
        (44_100, 1, "PCM_24"),
        (96_000, 6, "PCM_32"),
        (192_000, 2, "FLOAT"),
    ],
)
def test_an_odd_wav(
    server: Server, tmp_path: Path, rate_hz: int, channels: int, subtype: str
) -> None:
    path = tmp_path / "a.wav"
    by_libsndfile(path, tone(0.5, rate_hz, channels), rate_hz, "WAV", subtype)
    embedded(server, "a.wav", path.read_bytes())


def test_an_m4a_whose_index_is_at_its_end(server: Server, tmp_path: Path) -> None:
    path = by_ffmpeg(tmp_path / "a.m4a", tone(1.0), 48_000, "-c:a", "aac", "-f", "ipod")
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    embedded(server, "A.M4A", data)


def test_a_single_sample(server: Server) -> None:
    embedded(server, "a.wav", wav_bytes(b"\0\x40"))


def test_silence(server: Server) -> None:
    embedded(server, "a.wav", wav_bytes(bytes(96_000)))


def test_the_same_file_twice(server: Server, wav: bytes) -> None:
    files = [("audio_files", ("a.wav", wav))] * 2
    post(server, "/generate/blend", files=files, data={"duration": 0.04})
