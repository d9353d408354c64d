"""The API as a client sees it: every route in every encoding, and what the music is like."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import mutagen
import numpy as np
import pytest
import requests
import soundfile
from audio_files import by_ffmpeg, by_libsndfile, tone
from mutagen.mp3 import MP3, BitrateMode
from numpy.typing import NDArray
from serving import Server

from magenta_bento import __version__
from magenta_bento.audio.fades import fade

FORMATS = ["mp3", "wav", "flac", "ogg"]
EXACT_FORMATS = ["wav", "flac", "ogg"]
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
}
ENCODINGS = ["multipart", "urlencoded", "json"]
UPLOADS = ["wav", "mp3", "flac", "vorbis", "opus", "m4a"]
FRAME = 1_920
MP3_DELAY_SAMPLES = 576 + 529  # LAME's encoder and any decoder

Pcm = NDArray[np.int16]
Reply = requests.Response


def post(server: Server, route: str, **how: Any) -> Reply:
    reply = requests.post(f"{server.url}{route}", timeout=120, **how)
    assert reply.status_code == 200, reply.text
    return reply


def text(server: Server, prompt: str = "disco funk", **fields: Any) -> Reply:
    """Half a second of WAV, if not told otherwise."""
    body = {"prompt": prompt, "duration": 0.5, "seed": 1, "format": "wav", **fields}
    return post(server, "/generate/text", json=body)


def blend(server: Server, **fields: Any) -> bytes:
    body = {"duration": 0.5, "seed": 1, "format": "wav", **fields}
    return post(server, "/generate/blend", json=body).content


def in_encoding(encoding: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What ``requests`` takes to send the fields so."""
    if encoding == "multipart":
        return {"files": [(name, (None, str(value))) for name, value in fields.items()]}
    return {"data" if encoding == "urlencoded" else "json": fields}


def pcm(reply: Reply | bytes) -> Pcm:
    """int16 [samples, 2]."""
    data = reply if isinstance(reply, bytes) else reply.content
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert rate_hz == 48_000
    return samples


def level_db(samples: Pcm) -> float:
    """RMS relative to full scale."""
    return float(20 * np.log10(np.sqrt(np.mean((samples / 32_768.0) ** 2)) + 1e-12))


def until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same second of sound in every format we take."""
    folder, sound = tmp_path_factory.mktemp("uploads"), tone(1.0)
    aac = ("-c:a", "aac", "-f", "ipod")
    return {
        "wav": by_libsndfile(folder / "a.wav", sound, 48_000, "WAV", "PCM_16"),
        "mp3": by_libsndfile(folder / "a.mp3", sound, 48_000, "MP3", "MPEG_LAYER_III"),
        "flac": by_libsndfile(folder / "a.flac", sound, 48_000, "FLAC", "PCM_16"),
        "vorbis": by_libsndfile(folder / "a.ogg", sound, 48_000, "OGG", "VORBIS"),
        "opus": by_libsndfile(folder / "a.opus", sound, 48_000, "OGG", "OPUS"),
        "m4a": by_ffmpeg(folder / "a.m4a", sound, 48_000, *aac),
    }


@pytest.fixture(scope="module")
def wav(uploads: dict[str, Path]) -> bytes:
    return uploads["wav"].read_bytes()


# Routes and encodings


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_the_same_in_every_encoding(server: Server, encoding: str) -> None:
    fields = {
        "prompt": "größe, 東京",
        "duration": 0.2,
        "seed": 7,
        "temperature": 1.1,
        "top_k": 20,
        "guidance": 2.5,
        "format": "wav",
    }
    reply = post(server, "/generate/text", **in_encoding(encoding, fields))
    assert reply.content == text(server, **fields).content


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_blend_is_the_same_in_every_encoding(server: Server, encoding: str) -> None:
    fields = {"text_prompts": "funk, jazz", "text_weights": "1, 3"}
    rest = {"duration": 0.5, "seed": 1, "format": "wav"}
    reply = post(server, "/generate/blend", **in_encoding(encoding, {**fields, **rest}))
    assert reply.content == blend(server, text_prompts=["funk", "jazz"], text_weights=[1, 3])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_embedding_a_text(server: Server, encoding: str) -> None:
    body = post(server, "/embed/text", **in_encoding(encoding, {"prompt": "disco funk"})).json()
    assert sorted(body) == ["embedding", "prompt", "shape", "tokens"]
    assert body["prompt"] == "disco funk"
    assert body["shape"] == [768]
    assert np.isfinite(body["embedding"]).all()
    assert len(body["embedding"]) == 768
    assert len(body["tokens"]) == 12
    assert all(isinstance(token, int) and 0 <= token < 1024 for token in body["tokens"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_mapper_moves_an_embedding(server: Server, encoding: str) -> None:
    def embedded(use_mapper: bool) -> list[float]:
        fields = {"prompt": "disco funk", "use_mapper": json.dumps(use_mapper)}
        embedding: list[float] = post(
            server, "/embed/text", **in_encoding(encoding, fields)
        ).json()["embedding"]
        return embedding

    plain = post(server, "/embed/text", json={"prompt": "disco funk"}).json()["embedding"]
    assert embedded(False) == plain
    assert embedded(True) != plain


@pytest.mark.parametrize("format", UPLOADS)
def test_embedding_an_upload(server: Server, uploads: dict[str, Path], format: str) -> None:
    path = uploads[format]
    body = post(server, "/embed/audio", files={"audio_file": (path.name, path.read_bytes())}).json()
    assert sorted(body) == ["embedding", "filename", "shape", "tokens"]
    assert body["filename"] == path.name
    assert body["shape"] == [768]
    assert len(body["embedding"]) == 768
    assert len(body["tokens"]) == 12


def test_lossless_uploads_of_one_sound_have_one_embedding(
    server: Server, uploads: dict[str, Path]
) -> None:
    def embedded(format: str) -> list[float]:
        files = {"audio_file": uploads[format].read_bytes()}
        embedding: list[float] = post(server, "/embed/audio", files=files).json()["embedding"]
        return embedding

    # libsndfile rounds floats otherwise in each: by one step of 16 bits.
    assert embedded("wav") == pytest.approx(embedded("flac"), abs=1e-4)


@pytest.mark.parametrize("name", ["größe 東京.wav", 'a "b".wav', "../../etc/passwd", ".wav", "a"])
def test_an_uploads_own_name_comes_back(server: Server, wav: bytes, name: str) -> None:
    body = post(server, "/embed/audio", files={"audio_file": (name, wav)}).json()
    # A client writes a quotation mark in a file name as %22; no server can tell.
    assert body["filename"].replace("%22", '"') == name


@pytest.mark.parametrize("format", UPLOADS)
def test_music_from_an_upload(server: Server, uploads: dict[str, Path], format: str) -> None:
    files = {"audio_file": (uploads[format].name, uploads[format].read_bytes())}
    reply = post(server, "/generate/audio", files=files, data={"duration": 0.2, "format": "wav"})
    assert len(pcm(reply)) == 5 * FRAME


def test_what_is_left_out_is_mp3_of_ten_seconds(server: Server) -> None:
    reply = post(server, "/generate/text", json={"prompt": "disco funk"})
    assert reply.headers["Content-Type"] == "audio/mpeg"
    assert reply.headers["X-Audio-Duration"] == "10.00"
    assert abs(len(pcm(reply)) - 480_000) <= MP3_DELAY_SAMPLES


# Audio out


@pytest.mark.parametrize(
    ("duration", "frames"),
    [(1e-12, 1), (0.01, 1), (0.04, 1), (0.041, 2), (0.12, 3), (1.0, 25), (2.5, 63), (3.0, 75)],
)
@pytest.mark.parametrize("format", FORMATS)
def test_length_is_whole_frames(server: Server, format: str, duration: float, frames: int) -> None:
    reply = text(server, duration=duration, format=format)
    assert reply.headers["Content-Type"] == MEDIA_TYPES[format]
    assert float(reply.headers["X-Audio-Duration"]) == pytest.approx(frames / 25)
    samples = pcm(reply)
    assert samples.shape[1] == 2
    off_by = len(samples) - frames * FRAME
    assert abs(off_by) <= (MP3_DELAY_SAMPLES if format == "mp3" else 0)


@pytest.mark.parametrize("format", EXACT_FORMATS)
def test_music_begins_at_the_first_sample(server: Server, format: str) -> None:
    samples = pcm(text(server, format=format))
    assert level_db(samples[:FRAME]) > -45
    assert np.any(samples[:64])


def test_lossless_formats_hold_the_same_samples(server: Server) -> None:
    np.testing.assert_array_equal(pcm(text(server, format="wav")), pcm(text(server, format="flac")))


@pytest.mark.parametrize("prompt", ["disco funk", "a jazz piano trio", "静かなピアノ", "808"])
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_music_is_audible_and_not_too_loud(server: Server, prompt: str, seed: int) -> None:
    samples = pcm(text(server, prompt, seed=seed, duration=8))
    assert -36 <= level_db(samples) <= -6
    # All along, not only at first; a rest may be longer than a second.
    assert min(level_db(half) for half in np.split(samples, 2)) > -45


def test_mp3_has_a_high_quality_bit_rate(server: Server) -> None:
    info = MP3(io.BytesIO(text(server, duration=2, format="mp3").content)).info
    assert info.bitrate >= 192_000
    assert info.bitrate_mode is BitrateMode.CBR
    assert (info.sample_rate, info.channels) == (48_000, 2)


def test_wav_is_16_bit(server: Server) -> None:
    assert soundfile.info(io.BytesIO(text(server).content)).subtype == "PCM_16"


def test_a_piece_fades_as_asked_for(server: Server) -> None:
    plain = pcm(text(server, duration=1))
    faded = pcm(text(server, duration=1, fade_in=0.25, fade_out=0.5))
    np.testing.assert_array_equal(faded, fade(plain, 0.25, 0.5))
    assert not np.array_equal(faded, plain)


def test_ogg_is_opus(server: Server) -> None:
    assert soundfile.info(io.BytesIO(text(server, format="ogg").content)).subtype == "OPUS"


# Headers and tags


def test_headers_tell_what_was_made(server: Server) -> None:
    headers = text(server, seed=42, duration=1).headers
    assert headers["X-Seed"] == "42"
    assert headers["X-Model"] == "demo"
    assert headers["X-Audio-Duration"] == "1.00"
    took_s, speed = float(headers["X-Generation-Time"]), float(headers["X-Realtime-Factor"])
    assert speed == pytest.approx(1 / took_s, rel=0.05)


def suggested_name(reply: Reply) -> str:
    """As a browser reads it: the name in UTF-8, if there is one, goes before the other."""
    header = reply.headers["Content-Disposition"]
    plain = re.fullmatch(
        r"attachment; filename=\"([a-z0-9.-]+)\"(; filename\*=UTF-8''(\S+))?", header
    )
    assert plain, header
    return unquote(plain[3] or plain[1])


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Disco Funk!", "disco-funk-1.wav"),
        ("../../etc/passwd", "etc-passwd-1.wav"),
        ('a"; filename="b.exe', "a-filename-b-exe-1.wav"),
        ("a\r\nSet-Cookie: b=c", "a-set-cookie-b-c-1.wav"),
        ("🎷🔥", "music-1.wav"),
        ("静かなピアノ", "静かなピアノ-1.wav"),
    ],
)
def test_the_file_name_is_safe_and_readable(server: Server, prompt: str, name: str) -> None:
    reply = text(server, prompt, duration=0.04)
    assert suggested_name(reply) == name
    assert "Set-Cookie" not in reply.headers


def test_an_uploads_name_becomes_a_safe_file_name(server: Server, wav: bytes) -> None:
    files = {"audio_file": ("../../My Song.WAV", wav)}
    reply = post(server, "/generate/audio", files=files, data={"duration": 0.04, "seed": 3})
    assert suggested_name(reply) == "my-song-3.mp3"


@pytest.mark.parametrize("format", FORMATS)
def test_tags_name_the_prompt_the_seed_and_the_demo(server: Server, format: str) -> None:
    data = io.BytesIO(text(server, "größe 東京", seed=42, format=format).content)
    if format == "mp3":
        tags = {frame.FrameID: str(frame) for frame in mutagen.File(data).tags.values()}
        title, artist, comment, software = (tags[i] for i in ("TIT2", "TPE1", "COMM", "TSSE"))
    else:
        file = soundfile.SoundFile(data)
        title, artist, comment, software = file.title, file.artist, file.comment, file.software
    assert (title, artist) == ("größe 東京", "demo")
    assert "seed 42" in comment
    assert "tiny demo model, not Magenta's music" in comment
    assert f"magenta-bento {__version__}" in software


# Seeds and parameters


@pytest.mark.parametrize("format", FORMATS)
def test_same_seed_same_bytes(server: Server, format: str) -> None:
    replies = [text(server, duration=1, format=format) for _ in range(2)]
    assert replies[0].content == replies[1].content


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a jazz piano trio"},
        {"seed": 2},
        {"temperature": 0.5},
        {"top_k": 2},
        {"guidance": -1},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_request_is_other_music(server: Server, other: dict[str, Any]) -> None:
    assert not np.array_equal(pcm(text(server)), pcm(text(server, **other)))


NOTES = [43, 50]
CONTROLS = [
    ("drums", "on", "off", {}),
    ("notes", NOTES, [72], {"notes_guidance": 4}),
    ("notes_mode", "guide", "strict", {"notes": NOTES, "notes_guidance": 4}),
    ("notes_width", 0, 127, {"notes": NOTES, "notes_guidance": 4}),
    ("notes_guidance", 1, 5, {"notes": NOTES}),
    ("drums_guidance", 1, 5, {"drums": "on"}),
    ("style_levels", 12, 1, {}),
]


@pytest.mark.parametrize(("name", "one", "other", "rest"), CONTROLS, ids=lambda value: str(value))
def test_a_control_reaches_the_model_however_it_is_sent(
    server: Server, name: str, one: Any, other: Any, rest: dict[str, Any]
) -> None:
    """Other values, other music; the same value, the same music in each spelling."""

    def heard(value: Any) -> bytes:
        fields = {"prompt": "disco funk", "seed": 1, "duration": 1, **rest, name: value}
        parts = [
            (field, (None, str(each)))
            for field, sent in fields.items()
            for each in (sent if isinstance(sent, list) else [sent])
        ]
        wav = {"format": "wav"}
        url = f"{server.url}/stream/text"
        replies = [
            post(server, "/generate/text", json={**fields, **wav}),
            post(server, "/generate/text", data={**fields, **wav}),
            post(server, "/generate/text", files=[*parts, ("format", (None, "wav"))]),
        ]
        assert len({reply.content for reply in replies}) == 1
        streamed = requests.get(url, params={**fields, "format": "pcm"}, timeout=120)
        assert streamed.status_code == 200, streamed.text
        samples = pcm(replies[0])
        np.testing.assert_array_equal(np.frombuffer(streamed.content, "<i2"), samples.ravel())
        return replies[0].content

    assert heard(one) != heard(other)


@pytest.mark.parametrize("spelling", ["60,64", "[60, 64]", " 60 , 64 "])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_notes_may_be_written_as_text(server: Server, encoding: str, spelling: str) -> None:
    fields = {"prompt": "disco funk", "duration": 0.5, "seed": 1, "format": "wav"}
    reply = post(server, "/generate/text", **in_encoding(encoding, {**fields, "notes": spelling}))
    assert reply.content == text(server, notes=[60, 64]).content


def test_a_longer_piece_begins_like_a_shorter_one(server: Server) -> None:
    np.testing.assert_array_equal(pcm(text(server, duration=1))[: 13 * FRAME], pcm(text(server)))


def test_without_a_seed_each_piece_is_new_and_can_be_made_again(server: Server) -> None:
    first, second = (text(server, seed=None) for _ in range(2))
    assert first.headers["X-Seed"] != second.headers["X-Seed"]
    assert first.content != second.content
    assert text(server, seed=int(first.headers["X-Seed"])).content == first.content


def test_the_likeliest_codes_do_not_depend_on_the_seed(server: Server) -> None:
    greedy = [pcm(text(server, seed=seed, top_k=1)) for seed in (1, 2)]
    np.testing.assert_array_equal(*greedy)


# Blends


def audio(server: Server, wav: bytes, **fields: Any) -> Pcm:
    data = {"duration": 0.5, "seed": 1, "format": "wav", **fields}
    return pcm(post(server, "/generate/audio", files={"audio_file": wav}, data=data))


def test_a_prompt_beside_audio_counts_by_its_weight(server: Server, wav: bytes) -> None:
    def heard(**fields: Any) -> Pcm:
        return audio(server, wav, duration=4, **fields)  # all may begin alike

    both = heard(prompt="funk")
    assert not np.array_equal(heard(), both)
    assert not np.array_equal(both, heard(prompt="funk", audio_weight=1, text_weight=9))
    np.testing.assert_array_equal(both, heard(prompt="funk", audio_weight=2, text_weight=2))


def test_one_prompt_is_no_blend(server: Server) -> None:
    assert blend(server, text_prompts=["funk"]) == text(server, "funk").content
    assert blend(server, text_prompts=["funk"], text_weights=[0.1]) == text(server, "funk").content


def test_weights_count_relative_to_their_sum(server: Server) -> None:
    prompts = ["funk", "jazz"]
    assert blend(server, text_prompts=prompts, text_weights=[2, 4]) == blend(
        server, text_prompts=prompts, text_weights=[1, 2]
    )


def test_weights_matter(server: Server) -> None:
    prompts = ["funk", "jazz"]
    weights: list[list[float] | None] = [None, [1, 9], [9, 1], [2, -1]]
    made = {blend(server, text_prompts=prompts, text_weights=each, duration=4) for each in weights}
    assert len(made) == len(weights)


def test_no_weights_are_equal_weights(server: Server) -> None:
    prompts = ["funk", "jazz"]
    assert blend(server, text_prompts=prompts) == blend(
        server, text_prompts=prompts, text_weights=[1, 1]
    )


def test_order_does_not_matter(server: Server) -> None:
    one = blend(server, text_prompts=["funk", "jazz"], text_weights=[1, 2])
    other = blend(server, text_prompts=["jazz", "funk"], text_weights=[2, 1])
    np.testing.assert_array_equal(pcm(one), pcm(other))


@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
def test_a_list_can_be_written_in_three_ways(server: Server, encoding: str) -> None:
    def made(*prompts: str) -> bytes:
        fields = [("text_prompts", prompt) for prompt in prompts]
        fields += [("duration", "0.5"), ("seed", "1"), ("format", "wav")]
        if encoding == "urlencoded":
            return post(server, "/generate/blend", data=fields).content
        files = [(name, (None, value)) for name, value in fields]
        return post(server, "/generate/blend", files=files).content

    assert made("funk,jazz") == made("funk", "jazz") == made('["funk", "jazz"]')


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_prompt_in_a_list_may_hold_commas(server: Server, encoding: str) -> None:
    prompts = ["warm, slow strings", "jazz"]
    fields = {"text_prompts": json.dumps(prompts), "text_weights": "[1, 2]"}
    rest = {"duration": 0.5, "seed": 1, "format": "wav"}
    listed = post(server, "/generate/blend", **in_encoding(encoding, {**fields, **rest})).content
    assert listed == blend(server, text_prompts=prompts, text_weights=[1, 2])
    assert listed != blend(server, text_prompts=["warm", "slow strings", "jazz"])


def test_a_repeated_prompt_may_hold_commas(server: Server) -> None:
    prompts = ["warm, slow strings", "jazz"]
    fields = {"text_prompts": prompts, "duration": 0.5, "seed": 1, "format": "wav"}
    repeated = post(server, "/generate/blend", data=fields).content
    assert repeated == blend(server, text_prompts=prompts)


def test_files_and_texts_blend(server: Server, uploads: dict[str, Path]) -> None:
    def made(*weights: str) -> bytes:
        files = [("audio_files", uploads[format].read_bytes()) for format in ("wav", "mp3")]
        fields = {"text_prompts": "funk", "duration": 0.5, "seed": 1, "format": "wav"}
        given = dict(zip(("text_weights", "audio_weights"), weights, strict=False))
        return post(server, "/generate/blend", files=files, data={**fields, **given}).content

    assert made() == made("1", "1,1") == made("4", "[4, 4]")
    assert made() != made("1", "1,-0.5")


def test_a_blend_of_one_file_is_its_music(server: Server, wav: bytes) -> None:
    data = {"duration": 0.5, "seed": 1, "format": "wav"}
    blended = post(server, "/generate/blend", files={"audio_files": wav}, data=data)
    np.testing.assert_array_equal(pcm(blended), audio(server, wav))


# Many at once


def test_music_does_not_depend_on_who_else_plays(server: Server) -> None:
    """More at once than there are slots. Codes are equal; float sums may round otherwise."""
    prompts = [f"prompt {i}" for i in range(12)]

    def made(i: int) -> Pcm:
        return pcm(text(server, prompts[i], seed=i, duration=1 + i / 10))

    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(made, range(len(prompts))))
    for i, crowded in enumerate(together):
        alone = made(i)
        assert crowded.shape == alone.shape
        assert np.abs(crowded.astype(np.int32) - alone).max() <= 1


def streams(server: Server) -> dict[str, int]:
    counts: dict[str, int] = requests.get(f"{server.url}/health", timeout=10).json()["streams"]
    return counts


def ended(server: Server, outcome: str) -> float:
    metrics = requests.get(f"{server.url}/metrics", timeout=10).text
    line = f'magenta_bento_streams_total{{outcome="{outcome}"}}'
    return next((float(m.split()[-1]) for m in metrics.splitlines() if m.startswith(line)), 0.0)


def requests_left(server: Server) -> int:
    return sum(" 499 " in line for line in server.lines())


@pytest.mark.parametrize("route", ["/generate/text", "/generate/blend"])
def test_a_client_that_leaves_frees_its_slot(server: Server, route: str) -> None:
    """Cancelling frees it, not the piece's end; and the request ends, or no server could stop."""
    until(lambda: streams(server)["active"] == 0)
    cancelled, left = ended(server, "cancelled"), requests_left(server)
    body = {"duration": 120, "text_prompts" if "blend" in route else "prompt": "funk"}
    with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{server.url}{route}", json=body, timeout=httpx.Timeout(10, read=0.3))
    until(lambda: ended(server, "cancelled") == cancelled + 1)
    assert streams(server)["active"] == 0
    until(lambda: requests_left(server) == left + 1)


def test_clients_that_leave_the_queue_are_forgotten(server: Server) -> None:
    until(lambda: streams(server)["active"] == 0)
    capacity, left = streams(server)["capacity"], requests_left(server)

    def leave(i: int) -> None:
        body = {"prompt": f"{i}", "duration": 120}
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{server.url}/generate/text", json=body, timeout=httpx.Timeout(10, read=1))

    with ThreadPoolExecutor(2 * capacity) as pool:
        list(pool.map(leave, range(2 * capacity)))
    until(lambda: requests_left(server) == left + 2 * capacity)
    assert streams(server) == {"active": 0, "waiting": 0, "capacity": capacity}
