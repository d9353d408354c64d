"""The clock on the wall is set forward or back: music, pacing and patience do not notice."""

from __future__ import annotations

import ast
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import websockets
from fake_model import FakeModel, heard, styled
from fault_web import LIMIT_S, Place, assert_error, placed
from serving import REPOSITORY

DAY_S = 86_400.0
WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("time", "localtime")}
# Dates of certificates and of log lines and spans, and windows that several servers share.
MAY_LOOK_AT_THE_WALL = {"access/rate_limits.py", "logs.py", "tls.py", "tracing.py"}


@dataclass
class Wall:
    """A wall clock that a test sets; it goes on from there."""

    set_by_s: float = 0.0


@pytest.fixture(name="wall")
def _wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall, true = Wall(), time.time
    monkeypatch.setattr(time, "time", lambda: true() + wall.set_by_s)
    return wall


@pytest.fixture(name="restless")
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is a day off, forward and back in turn, whenever somebody looks."""
    days, true = itertools.cycle([DAY_S, -DAY_S]), time.time
    monkeypatch.setattr(time, "time", lambda: true() + next(days))


@pytest.fixture(name="four")
def _four() -> Iterator[Place]:
    with placed(FakeModel(batch_sizes=(1, 4))) as place:
        yield place


@pytest.mark.usefixtures("restless")
async def test_a_stream_keeps_its_pace(four: Place) -> None:
    body = {"prompt": "funk", "duration": 3, "seed": 1, "format": "pcm", "pace": "realtime"}
    async with httpx.AsyncClient(timeout=LIMIT_S) as client:
        began = time.monotonic()
        answer = await client.post(f"{four.url}/stream/text", json=body)
        took_s = time.monotonic() - began
    samples = np.frombuffer(answer.content, "<i2").reshape(-1, 2)
    style = styled(len("funk"))
    assert np.array_equal(samples[:, 1], heard(1, 75, style)[:, 1])
    assert took_s > 0.8  # 3 s less the 2 s that are sent ahead


@pytest.mark.usefixtures("restless")
async def test_a_jam_plays_and_its_stats_make_sense(four: Place) -> None:
    start = {"type": "start", "prompts": [{"text": "funk"}], "chunk_ms": 200, "lead_ms": 1000}
    heard_s, stats = 0.0, []
    async with websockets.connect(four.url.replace("http", "ws") + "/ws/jam") as client:
        began = time.monotonic()
        await client.send(json.dumps(start))
        while heard_s < 3:
            message = await client.recv()
            if isinstance(message, bytes):
                heard_s += len(message) / 192_000
            else:
                stats.append(json.loads(message))
        assert time.monotonic() - began > 1.5
    leads = [told["lead_ms"] for told in stats if told["type"] == "stats"]
    assert leads
    assert all(-LIMIT_S * 1000 < lead <= 1200 for lead in leads)


@pytest.mark.usefixtures("restless")
async def test_a_file_tells_how_long_it_took(four: Place) -> None:
    answer = await four.ask(duration=2)
    assert answer.status_code == 200
    assert 0 < float(answer.headers["X-Generation-Time"]) < LIMIT_S


async def test_a_window_of_a_limit_ends_early_when_the_clock_goes_forward(wall: Wall) -> None:
    with placed(FakeModel(batch_sizes=(1,)), rate_limit_per_minute=2) as place:
        assert [(await place.ask()).status_code for _ in range(3)] == [200, 200, 429]
        wall.set_by_s = 3600.0
        assert [(await place.ask()).status_code for _ in range(3)] == [200, 200, 429]


async def test_a_window_of_a_limit_lasts_longer_when_the_clock_goes_back(wall: Wall) -> None:
    with placed(FakeModel(batch_sizes=(1,)), rate_limit_per_minute=2) as place:
        assert [(await place.ask()).status_code for _ in range(2)] == [200, 200]
        wall.set_by_s = -3600.0
        refused = await place.ask()
        assert_error(refused, 429, "rate_limited")
        # As much longer as the clock was set back by, and the client is told so.
        assert 3600 < int(refused.headers["Retry-After"]) <= 3660
        wall.set_by_s = 60.0
        assert (await place.ask()).status_code == 200


def looks_at_the_wall(source: str) -> bool:
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in WALL_CLOCKS
        for node in ast.walk(ast.parse(source))
    )


def test_only_these_modules_look_at_the_wall() -> None:
    """All else is timed by clocks that are never set."""
    package = REPOSITORY / "magenta_bento"
    looking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if looks_at_the_wall(path.read_text())
    }
    assert looking == MAY_LOOK_AT_THE_WALL


@pytest.mark.parametrize("source", ["import time\ntime.time()", "a = datetime.now(UTC)"])
def test_a_look_at_the_wall_is_seen(source: str) -> None:
    assert looks_at_the_wall(source)
    assert not looks_at_the_wall("import time\ntime.monotonic()")
