"""An encoder that fails: at its start, in the middle of a piece, at the end of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import soundfile
import websockets
from fake_model import FakeModel
from fault_web import LIMIT_S, Place, assert_error, placed

FRAMES_TILL_FAULT = 10
SECONDS = 2  # 50 frames


@dataclass
class Faults:
    """When libsndfile fails: not at all, unless told."""

    open: bool = False
    after_frames: int | None = None
    close: bool = False

    def cure(self) -> None:
        self.open = self.close = False
        self.after_frames = None


def broken() -> soundfile.LibsndfileError:
    return soundfile.LibsndfileError(1, "injected: ")


@pytest.fixture(name="faults")
def _faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Makes libsndfile fail as the test says."""
    faults = Faults()

    class SoundFile(soundfile.SoundFile):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            if faults.open:
                raise broken()
            super().__init__(*args, **options)

        def write(self, data: Any) -> None:
            if faults.after_frames is not None:
                if faults.after_frames == 0:
                    raise broken()
                faults.after_frames -= 1
            super().write(data)

        def close(self) -> None:
            was_open = not self.closed
            super().close()
            if faults.close and was_open:
                raise broken()

    monkeypatch.setattr(soundfile, "SoundFile", SoundFile)
    return faults


@pytest.fixture(name="one")
def _one(faults: Faults) -> Iterator[Place]:
    """A server that plays one stream at a time: a slot that is lost is missed."""
    with placed(FakeModel(batch_sizes=(1,))) as place:
        yield place


@pytest.mark.parametrize("format", ["mp3", "flac", "ogg"])
@pytest.mark.parametrize("when", ["open", "after_frames", "close"])
async def test_a_file_is_refused_and_its_slot_is_free(
    one: Place, faults: Faults, format: str, when: str
) -> None:
    setattr(faults, when, FRAMES_TILL_FAULT if when == "after_frames" else True)
    answer = await one.ask(duration=SECONDS, format=format)
    assert "encoder" in assert_error(answer, 500, "generation_failed")
    await one.at_rest()
    faults.cure()
    assert (await one.ask(duration=SECONDS, format=format)).status_code == 200
    assert one.rig.deaths == []


@pytest.mark.parametrize("format", ["mp3", "ogg"])
async def test_a_stream_that_has_not_begun_is_refused(
    one: Place, faults: Faults, format: str
) -> None:
    faults.open = True
    answer = await one.ask("/stream/text", duration=0, format=format)
    assert_error(answer, 500, "generation_failed")
    await one.at_rest()


@pytest.mark.parametrize("format", ["mp3", "ogg"])
async def test_a_stream_that_has_begun_breaks_off(one: Place, faults: Faults, format: str) -> None:
    faults.after_frames = 100
    body = {"prompt": "funk", "duration": 0, "format": format, "pace": "asap"}
    heard = b""
    async with (
        httpx.AsyncClient(timeout=LIMIT_S) as client,
        client.stream("POST", f"{one.url}/stream/text", json=body) as answer,
    ):
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012  # it breaks amid reading
            async for chunk in answer.aiter_bytes():
                heard += chunk
    assert heard  # what was made before is kept
    await one.at_rest()
    faults.cure()
    answer = await one.ask("/stream/text", format=format)
    assert answer.status_code == 200


async def test_a_jam_is_told_and_closed(one: Place, faults: Faults) -> None:
    faults.after_frames = 30
    start = {"type": "start", "prompts": [{"text": "funk"}], "format": "ogg", "chunk_ms": 200}
    told = []
    async with websockets.connect(one.url.replace("http", "ws") + "/ws/jam") as client:
        await client.send(json.dumps(start))
        with pytest.raises(websockets.ConnectionClosed):  # noqa: PT012  # it closes amid reading
            while True:
                told.append(await client.recv())
        assert client.close_code == 1011
    last = json.loads([message for message in told if isinstance(message, str)][-1])
    assert (last["type"], last["error_type"], last["fatal"]) == ("error", "generation_failed", True)
    await one.at_rest()
