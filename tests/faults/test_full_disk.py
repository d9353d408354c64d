"""No space left on the device, anywhere: what the kernel says of /dev/full, in this process."""

from __future__ import annotations

import gc
import logging
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from fake_model import FakeModel
from fault_web import LIMIT_S, Place, assert_error, placed

UPLOAD = bytes(3_000_000)  # more than is kept in memory


@pytest.fixture(name="place")
def _place() -> Iterator[Place]:
    with placed(FakeModel(batch_sizes=(1,))) as place:
        yield place


@pytest.fixture(name="full")
def _full(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[IO[bytes]]]:
    """The temporary files that were opened, on a disk without room."""
    opened: list[weakref.ref[IO[bytes]]] = []

    def temporary_file(*_: Any, **__: Any) -> IO[bytes]:
        file = Path("/dev/full").open("r+b")  # noqa: SIM115  # whoever opened it closes it
        opened.append(weakref.ref(file))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    # A record that pytest keeps would keep the error, and the error the file.
    monkeypatch.setattr(logging.getLogger("magenta_bento"), "disabled", True)
    return opened


async def upload(place: Place) -> httpx.Response:
    files = {"audio_file": ("a", UPLOAD)}
    async with httpx.AsyncClient(timeout=LIMIT_S) as client:
        return await client.post(f"{place.url}/embed/audio", files=files)


async def test_an_upload_that_finds_no_room_is_to_come_again(
    place: Place, full: list[weakref.ref[IO[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        answer = await upload(place)
        assert_error(answer, 503, "overloaded")
        assert int(answer.headers["Retry-After"]) > 0
    assert full
    await place.at_rest()
    gc.collect()
    assert all(file() is None for file in full)  # none is kept open
    assert (await place.ask()).status_code == 200  # music needs none
    monkeypatch.undo()
    assert (await upload(place)).json() == {"first": len(UPLOAD)}
