"""Prompts and uploads: what waits is bounded, and what nobody waits for is not worked for."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from fake_model import until
from prometheus_client import CollectorRegistry

from magenta_bento import prompting
from magenta_bento.audio.decode import DecodedAudio, DecodeLimits
from magenta_bento.errors import InvalidInput, NotReady, Overloaded
from magenta_bento.logs import request_id
from magenta_bento.metrics import Metrics
from magenta_bento.prompting import (
    PROMPTS_WAITING,
    STYLE_THREADS,
    UPLOAD_THREADS,
    UPLOADS_WAITING,
    Prompter,
)
from magenta_bento.style import Style, StyleEncoder

STYLE = np.ones(768, np.float32)
TOKENS = np.arange(12, dtype=np.int32)


class Slow:
    """A decoder and a style encoder that work when, and as, the test says."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began: list[bytes] = []
        self.error: Exception | None = None
        self.closed = False
        self.request_ids: list[str] = []

    def decode(self, file: BinaryIO, limits: DecodeLimits) -> DecodedAudio:
        file.seek(0)
        self.began.append(file.read())
        self.go.wait()
        if self.error is not None:
            raise self.error
        return DecodedAudio(np.zeros((10, 2), np.float32), 48_000)

    def embed_audio(self, *_: Any) -> Any:
        return STYLE

    def embed_text(self, *_: Any) -> Any:
        self.request_ids.append(request_id.get())
        self.go.wait()
        return STYLE

    def tokenize(self, _: Any) -> Any:
        return TOKENS

    def style(self, embedding: Any) -> Style:
        return Style(embedding, TOKENS)

    def close(self) -> None:
        self.closed = True


class Place:
    """A prompter, what is behind it, and its figures."""

    def __init__(self, slow: Slow) -> None:
        self.slow = slow
        self.registry = CollectorRegistry()
        self.prompter = Prompter(cast("StyleEncoder", slow), 60, Metrics(self.registry))

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"magenta_bento_{name}", labels)

    def upload(self, data: bytes = b"sound") -> asyncio.Task[Any]:
        return asyncio.create_task(self.prompter.audio(io.BytesIO(data), "audio_file"))


@pytest.fixture(name="place")
def _place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    slow = Slow()
    monkeypatch.setattr(prompting, "Decoder", lambda: slow)
    made = Place(slow)
    yield made
    made.slow.go.set()
    made.prompter.close()


async def test_uploads_are_decoded_and_counted(place: Place) -> None:
    place.slow.go.set()
    style = await place.upload(b"bytes")
    assert (style.embedding == STYLE).all()
    assert (style.tokens == TOKENS).all()
    assert place.slow.began == [b"bytes"]
    assert place.metric("decode_seconds_count") == 1
    assert place.metric("decodes_waiting") == 0


async def test_a_refusal_names_the_field(place: Place) -> None:
    place.slow.error = InvalidInput("too long")
    place.slow.go.set()
    with pytest.raises(InvalidInput, match="audio_file: too long"):
        await place.upload()


async def test_a_host_without_room(place: Place) -> None:
    place.slow.error = OSError(28, "No space left on device")
    place.slow.go.set()
    with pytest.raises(Overloaded, match="no room") as caught:
        await place.upload()
    assert caught.value.retry_after_s


async def test_so_many_uploads_wait_and_no_more(place: Place) -> None:
    uploads = [place.upload() for _ in range(UPLOAD_THREADS + UPLOADS_WAITING)]
    await until(lambda: len(place.slow.began) == UPLOAD_THREADS)
    assert place.metric("decodes_waiting") == UPLOADS_WAITING
    with pytest.raises(Overloaded, match=f"{UPLOADS_WAITING} uploads are waiting") as caught:
        await place.upload()
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert place.metric("refused_total", reason="uploads_full") == 1
    place.slow.go.set()
    assert len(await asyncio.gather(*uploads)) == UPLOAD_THREADS + UPLOADS_WAITING
    assert place.metric("decodes_waiting") == 0
    await place.upload()


async def test_an_upload_that_was_given_up_is_not_decoded(place: Place) -> None:
    running = [place.upload(b"running") for _ in range(UPLOAD_THREADS)]
    await until(lambda: len(place.slow.began) == UPLOAD_THREADS)
    given_up = [place.upload(b"given up") for _ in range(5)]
    waiting = place.upload(b"waiting")
    await until(lambda: place.metric("decodes_waiting") == 6)
    for upload in given_up:
        upload.cancel()
    await until(lambda: place.metric("decodes_waiting") == 1)
    place.slow.go.set()
    await asyncio.gather(*running, waiting)
    assert b"given up" not in place.slow.began
    assert place.slow.began[-1] == b"waiting"


async def test_an_upload_given_up_while_it_is_decoded_keeps_its_thread(place: Place) -> None:
    running = [place.upload() for _ in range(UPLOAD_THREADS)]
    await until(lambda: len(place.slow.began) == UPLOAD_THREADS)
    for upload in running:
        upload.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*running)
    waiting = place.upload(b"waiting")
    await until(lambda: place.metric("decodes_waiting") == 1)
    assert b"waiting" not in place.slow.began
    place.slow.go.set()
    await waiting


async def test_retry_after_grows_with_the_wait(place: Place) -> None:
    uploads = place.prompter._uploads
    uploads._mean_s = 3.0
    running = [place.upload() for _ in range(UPLOAD_THREADS + UPLOADS_WAITING)]
    await until(lambda: place.metric("decodes_waiting") == UPLOADS_WAITING)
    with pytest.raises(Overloaded) as caught:
        await place.upload()
    assert caught.value.retry_after_s == -(-3 * (UPLOADS_WAITING + 1) // UPLOAD_THREADS)
    place.slow.go.set()
    await asyncio.gather(*running)
    assert uploads._mean_s < 3.0  # these were quicker


async def test_a_job_knows_the_request_that_it_is_for(place: Place) -> None:
    """Or else what it logs could not be told from what another request's job logs."""

    async def ask(name: str) -> None:
        request_id.set(name)
        await place.prompter.text("funk")

    place.slow.go.set()
    await asyncio.gather(*(ask(name) for name in ("one", "two", "three")))
    assert sorted(place.slow.request_ids) == ["one", "three", "two"]


async def test_texts_are_bounded_apart_from_uploads(place: Place) -> None:
    texts = [
        asyncio.create_task(place.prompter.text(f"{n}"))
        for n in range(STYLE_THREADS + PROMPTS_WAITING)
    ]
    await until(lambda: place.prompter._prompts._waiting == PROMPTS_WAITING)
    with pytest.raises(Overloaded, match="prompts are waiting"):
        await place.prompter.text("one more")
    assert place.metric("refused_total", reason="prompts_full") == 1
    assert place.metric("refused_total", reason="uploads_full") == 0
    upload = place.upload()
    await until(lambda: place.slow.began)
    place.slow.go.set()
    await asyncio.gather(upload, *texts)


async def test_after_closing_nobody_is_let_in(place: Place) -> None:
    place.prompter.close()
    assert place.slow.closed
    for _ in range(UPLOAD_THREADS + 1):
        with pytest.raises(NotReady):
            await place.upload()
    with pytest.raises(NotReady):
        await place.prompter.text("too late")
    assert place.metric("decodes_waiting") == 0
