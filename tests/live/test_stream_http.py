"""/stream/*: every format in full, sent while it is made, and left when the client leaves."""

from __future__ import annotations

import asyncio
import io
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import imageio_ffmpeg
import numpy as np
import pytest
import requests
import soundfile
from audio_files import tone
from conftest import streams, until_idle
from fake_model import styled
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from serving import Server

from magenta_bento.access.budget import AudioBudget
from magenta_bento.access.rate_limits import Limits
from magenta_bento.access.store import Store
from magenta_bento.audio.encode import make_stream_encoder
from magenta_bento.audio.formats import FRAME_SAMPLES, StreamFormat
from magenta_bento.audio.tags import Tags
from magenta_bento.config import IN_MEMORY, Settings
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.errors import GenerationFailed, SlowReader
from magenta_bento.metrics import Metrics
from magenta_bento.web import streaming
from magenta_bento.web.streaming import StreamedAudio, encoded

SECOND = 48_000
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "ogg": 'audio/ogg; codecs="opus"',
    "pcm": "audio/l16;rate=48000;channels=2",
}
MP3_FRAME = 1_152
MP3_DELAY = 576 + 529  # LAME's encoder and any decoder
REALTIME_S = 10.0
LEAD_S = 2.2  # 2 s, and what jitters

Pcm = NDArray[np.int16]


def post(server: Server, route: str, **how: Any) -> requests.Response:
    reply = requests.post(f"{server.url}{route}", timeout=120, **how)
    assert reply.status_code == 200, reply.text
    return reply


def text(server: Server, format: str = "pcm", **fields: Any) -> requests.Response:
    body = {"prompt": "disco funk", "duration": 1, "seed": 1, "format": format, **fields}
    return post(server, "/stream/text", json=body)


def samples(data: bytes) -> Pcm:
    """int16 [N, 2] of a file that says what it is."""
    decoded, rate_hz = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert rate_hz == 48_000
    return decoded


def raw(data: bytes) -> Pcm:
    return np.frombuffer(data, "<i2").reshape(-1, 2)


def by_ffmpeg(data: bytes, *options: str) -> Pcm:
    """int16 [N, 2]; a word of complaint from ffmpeg fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *options, "-i", "pipe:0"]
    command += ["-f", "s16le", "-ar", "48000", "-ac", "2", "pipe:1"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert done.stderr == b""
    return raw(done.stdout)


def likeness(a: Pcm, b: Pcm) -> float:
    """The correlation of what both have, 1 for the same sound."""
    n = min(len(a), len(b))
    x, y = a[:n].astype(float).ravel(), b[:n].astype(float).ravel()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@pytest.fixture(scope="module")
def wav() -> bytes:
    """Half a second of sound to upload."""
    file = io.BytesIO()
    soundfile.write(file, tone(0.5), 48_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="module")
def reference(server: Server) -> Pcm:
    """Two seconds of /generate/text, as samples."""
    fields = {"prompt": "disco funk", "duration": 2, "seed": 1, "format": "wav"}
    return samples(post(server, "/generate/text", json=fields).content)


# Every way to ask

TEXT = {"prompt": "größe, 東京", "duration": "0.4", "seed": "7", "format": "pcm"}
BLEND = {
    "text_prompts": "funk, jazz",
    "text_weights": "1, 3",
    "duration": "0.4",
    "seed": "7",
    "format": "pcm",
}
ENCODINGS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "multipart": lambda fields: {"files": [(k, (None, v)) for k, v in fields.items()]},
    "urlencoded": lambda fields: {"data": fields},
    "json": lambda fields: {"json": fields},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("kind", "fields"), [("text", TEXT), ("blend", BLEND)])
def test_every_encoding_and_get_stream_what_generate_makes(
    server: Server, encoding: str, kind: str, fields: dict[str, str]
) -> None:
    streamed = post(server, f"/stream/{kind}", **ENCODINGS[encoding](fields)).content
    got = requests.get(f"{server.url}/stream/{kind}", params=fields, timeout=60)
    assert got.status_code == 200
    assert got.content == streamed
    whole = post(server, f"/generate/{kind}", json={**fields, "format": "wav"}).content
    assert np.array_equal(raw(streamed), samples(whole))


def test_audio_streams_what_generate_makes(server: Server, wav: bytes) -> None:
    def ask(route: str, format: str) -> bytes:
        fields = {"duration": "0.4", "seed": "3", "format": format, "prompt": "jazz"}
        files = {"audio_file": ("tone.wav", wav)}
        return post(server, route, data=fields, files=files).content

    assert np.array_equal(raw(ask("/stream/audio", "pcm")), samples(ask("/generate/audio", "wav")))


def test_audio_has_no_get(server: Server) -> None:
    assert requests.get(f"{server.url}/stream/audio", timeout=10).status_code == 405


# Formats


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_headers(server: Server, format: str) -> None:
    headers = text(server, format, duration=0.2, seed=99).headers
    assert headers["content-type"] == MEDIA_TYPES[format]
    assert headers["x-seed"] == "99"
    assert headers["x-model"]
    assert headers["cache-control"] == "no-store"
    assert "content-length" not in headers
    told = [headers.get(f"x-{name}") for name in ("sample-rate", "channels", "sample-format")]
    assert told == (["48000", "2", "s16le"] if format == "pcm" else [None] * 3)


def test_pcm_is_exactly_generates_samples(server: Server, reference: Pcm) -> None:
    assert np.array_equal(raw(text(server, "pcm", duration=2).content), reference)


def test_wav_is_byte_for_byte_generates_file(server: Server) -> None:
    fields = {"prompt": "disco funk", "duration": 2, "seed": 1, "format": "wav"}
    whole = post(server, "/generate/text", json=fields).content
    assert text(server, "wav", duration=2).content == whole
    assert len(by_ffmpeg(whole)) == 2 * SECOND


def test_mp3_decodes_to_the_same_music(server: Server, reference: Pcm) -> None:
    data = text(server, "mp3", duration=2).content
    for decoded in (samples(data), by_ffmpeg(data)):
        extra = len(decoded) - 2 * SECOND  # a stream's header can't tell a player what to trim
        assert MP3_DELAY - MP3_FRAME <= extra <= MP3_DELAY + 2 * MP3_FRAME
        best = max(likeness(decoded[cut:], reference) for cut in (0, 529, 576, MP3_DELAY))
        assert best > 0.95


def test_ogg_is_opus_of_the_same_music(server: Server, reference: Pcm) -> None:
    data = text(server, "ogg", duration=2).content
    assert b"OpusHead" in data[:64]
    for decoded in (samples(data), by_ffmpeg(data)):
        assert abs(len(decoded) - 2 * SECOND) <= 1
        assert likeness(decoded, reference) > 0.9


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_the_same_seed_gives_the_same_bytes(server: Server, format: str) -> None:
    again = text(server, format).content
    assert text(server, format).content == again


# Time


def paced(server: Server, **fields: Any) -> Iterator[tuple[float, bytes]]:
    """Pieces as they come, each with its time since the first."""
    body = {"prompt": "disco funk", "seed": 1, "format": "pcm", **fields}
    with httpx.stream("POST", f"{server.url}/stream/text", json=body, timeout=60) as reply:
        assert reply.status_code == 200
        began = None
        for piece in reply.iter_raw():
            began = time.monotonic() if began is None else began
            yield time.monotonic() - began, piece


def test_realtime_stays_a_bounded_lead_ahead(server: Server) -> None:
    received_s, leads = 0.0, []
    for elapsed_s, piece in paced(server, duration=REALTIME_S, pace="realtime"):
        if received_s:
            assert received_s >= elapsed_s, "the listener would have stood still"
        received_s += len(piece) / 4 / SECOND
        leads.append(received_s - elapsed_s)
    assert received_s == pytest.approx(REALTIME_S)
    assert max(leads) <= LEAD_S
    assert max(leads) >= 1.0, "there is no lead to ride anything out with"


def test_bytes_arrive_while_the_music_is_made(server: Server) -> None:
    pieces = [(at_s, len(piece)) for at_s, piece in paced(server, duration=3, pace="realtime")]
    assert len(pieces) > 10
    assert pieces[0][1] < SECOND  # a quarter of a second: the music was not kept back
    assert pieces[-1][0] > 0.7  # 3 s less the lead: the first came long before


def test_asap_does_not_wait_for_playback(server: Server, idle: None) -> None:
    """Sixty seconds come about as fast as a file of them: what has an end is not paced."""
    began = time.monotonic()
    post(server, "/generate/text", json={**TEXT, "format": "wav", "duration": 60})
    made = time.monotonic()
    assert len(text(server, "pcm", duration=60).content) == 60 * SECOND * 4
    assert time.monotonic() - made < 3 * (made - began)


@pytest.mark.parametrize("format", ["pcm", "mp3"])
def test_duration_0_plays_until_the_client_leaves(server: Server, idle: None, format: str) -> None:
    playing = paced(server, duration=0, format=format)
    with closing(playing):
        for at_s, _ in playing:
            if at_s > 3:  # longer than the lead: it goes on
                break
        assert streams(server)["active"] == 1
    until_idle(server)


def test_leaving_frees_the_slot(server: Server, idle: None) -> None:
    with closing(paced(server, duration=3600, pace="asap")) as playing:
        next(playing)
        assert streams(server)["active"] == 1
    until_idle(server)


def test_leaving_twenty_times_at_once_frees_every_slot(server: Server, idle: None) -> None:
    def leave(_: int) -> None:
        with closing(paced(server, duration=0)) as playing:
            next(playing)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(leave, range(20)))
    until_idle(server)


# Errors before the first byte


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"duration": 3600.5}, "duration"),
        ({"duration": -1}, "duration"),
        ({"duration": "long"}, "duration"),
        ({"format": "flac"}, "format"),
        ({"pace": "slow"}, "pace"),
        ({"top_k": 0}, "top_k"),
        ({"seed": 2**32}, "seed"),
        ({"prompt": " "}, "prompt"),
        ({"tempo": 120}, "tempo"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_wrong_field_is_told_before_any_audio(
    server: Server, method: str, fields: dict[str, Any], field: str
) -> None:
    body = {"prompt": "disco funk", **fields}
    how = {"json": body} if method == "POST" else {"params": body}
    reply = requests.request(method, f"{server.url}/stream/text", timeout=30, **how)
    assert reply.status_code == 400
    told = reply.json()
    assert sorted(told) == ["detail", "error", "type"]
    assert told["type"] == "invalid_input"
    assert told["detail"][0]["field"] == field
    assert field in told["error"]


def test_a_stream_may_be_longer_than_a_file(server: Server) -> None:
    longer = {"prompt": "disco funk", "duration": 121}
    assert requests.post(f"{server.url}/generate/text", json=longer, timeout=9).status_code == 400
    with closing(paced(server, duration=121)) as playing:
        next(playing)


# Where the network fails: a response with a connection of our own making


class Wire:
    """An ASGI connection. It takes ``patience`` messages, then none."""

    def __init__(self, patience: int = 1_000) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self._patience = patience

    async def send(self, message: Any) -> None:
        if len(self.sent) == self._patience:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return self.sent[-1].get("more_body") is False


def playing(frames: int | None = None) -> Stream:
    spec = StreamSpec(styled(), 0, frames, lead_frames=10)
    stream = Stream(spec, asyncio.get_running_loop(), lambda: None)
    stream.enter(Phase.PLAYING)
    return stream


def feed(stream: Stream, frames: int) -> None:
    stream.deliver(np.zeros((frames * FRAME_SAMPLES, 2), np.int16))


async def answer(stream: Stream, wire: Wire) -> None:
    """What the service does with a stream."""
    encoder = make_stream_encoder(StreamFormat.pcm, Tags(title="", artist=""))
    settings, metrics = Settings(), Metrics(CollectorRegistry())
    limits = Limits(settings, Store(IN_MEMORY, metrics), metrics)
    with ThreadPoolExecutor(1) as pool:
        meter = AudioBudget(limits, "a client")
        chunks: AsyncGenerator[bytes, None] = encoded(stream, encoder, None, meter, pool)
        first = await anext(chunks)
        response = StreamedAudio(first, chunks, stream.cancel, "audio/l16", {})
        await response({"type": "http"}, wire.receive, wire.send)


async def test_a_whole_stream_ends_properly() -> None:
    stream, wire = playing(frames=2), Wire()
    feed(stream, 3)  # the first is silent
    stream.enter(Phase.FINISHED)
    await answer(stream, wire)
    assert len(wire.body) == 2 * FRAME_SAMPLES * 4
    assert wire.complete


async def test_a_client_that_reads_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STALL_S", 0.05)
    stream, wire = playing(), Wire(patience=2)
    feed(stream, 2)
    feed(stream, 1)
    with pytest.raises(SlowReader):
        await answer(stream, wire)
    assert stream.cancel_requested
    assert not wire.complete


async def test_a_failure_after_the_first_byte_breaks_the_connection_off() -> None:
    stream, wire = playing(), Wire()
    feed(stream, 2)
    stream.enter(Phase.FAILED, GenerationFailed("the model failed"))
    with pytest.raises(GenerationFailed):  # uvicorn then closes without the last chunk
        await answer(stream, wire)
    assert wire.body
    assert not wire.complete


async def test_a_failure_before_the_first_byte_sends_nothing() -> None:
    stream, wire = playing(), Wire()
    stream.enter(Phase.FAILED, GenerationFailed("the model failed"))
    with pytest.raises(GenerationFailed):
        await answer(stream, wire)
    assert wire.sent == []


async def test_a_client_that_leaves_between_two_chunks_cancels() -> None:
    stream, wire = playing(), Wire()
    feed(stream, 2)
    answering = asyncio.create_task(answer(stream, wire))
    wire.left.set()
    while not stream.cancel_requested:  # noqa: ASYNC110  # the stream tells nobody
        await asyncio.sleep(0.001)
    stream.enter(Phase.CANCELLED)
    await answering
