"""A real server and what strangers may upload: damaged files, hostile ones, and too many."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests
from audio_files import by_ffmpeg, by_libsndfile, tone
from hostile_audio import HOSTILE
from reference import as_fast_as, reference_s
from serving import Server, serving

from bench.uploads import (
    Answers,
    processes,
    resident_bytes,
    send_damaged_files,
    temporary_files,
)
from magenta_bento.prompting import UPLOAD_THREADS, UPLOADS_WAITING
from tests.upload_mutations import make_seeds, mutated

# Damaged files, and how many come before memory is looked at.
CROWDS = [(100, 50), pytest.param(2_000, 300, marks=pytest.mark.long)]
ANSWER_DECODES = 15  # no answer takes longer than this many decodes of an honest minute
GROWTH_BYTES = 40_000_000  # a clip that stays would be 4 MB for each of a few hundred
# One of each kind: a bomb, an endless header, a claim, and a number out of bounds.
SENT = [
    "flac: a long silence",
    "flac: eight channels at 384 kHz",
    "m4a: endless boxes",
    "m4a: a movie in a movie",
    "wav: endless chunks",
    "ogg: endless comments",
    "id3: a tag of 49 MB",
    "m4a: claims days",
    "wav: 64 channels",
    "wav: no channels",
    "wav: no rate",
    "wav: 384,001 Hz",
    "wav: not a number",
    "wav: infinite",
    "wav: loud beyond measure",
]


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own, so that all its processes and files are known."""
    with serving(tmp_path_factory.mktemp("uploads"), fake_model=True) as running:
        yield running


@pytest.fixture(name="seeds", scope="module")
def _seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_seeds(tmp_path_factory.mktemp("seeds"))


def send(server: Server, data: bytes, route: str = "/prompts/audio") -> requests.Response:
    files = {"audio_file": ("upload.mp3", data)}
    return requests.post(f"{server.url}{route}", files=files, timeout=60)


def metric(server: Server, name: str) -> float:
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    found = re.search(rf"^magenta_bento_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def assert_as_before(server: Server, before: set[int]) -> None:
    """No process that was not there, and no file; what was just killed may take a moment."""
    deadline = time.monotonic() + 5
    while left := [p for p in processes(server) if p.pid not in before]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)
    assert temporary_files(server) == []


@pytest.mark.parametrize(("files", "warm_up"), CROWDS)
def test_damaged_files(files: int, warm_up: int, place: Server, seeds: list[bytes]) -> None:
    decoded = metric(place, "decode_seconds_count")
    send_damaged_files(place, seeds, range(-warm_up, 0))
    pids = {process.pid for process in processes(place)}
    before = resident_bytes(place)
    answers: Answers = send_damaged_files(place, seeds, range(files))
    after = resident_bytes(place)
    assert answers.wrong == []
    assert sum(answers.statuses.values()) == files
    # The mutations are neither so mild that all pass nor so wild that none does.
    assert min(answers.statuses[200], answers.statuses[400]) > files / 10
    assert max(answers.took_s)[0] < ANSWER_DECODES * reference_s()
    assert_as_before(place, pids)
    assert after - before < GROWTH_BYTES
    assert metric(place, "decode_seconds_count") - decoded == warm_up + files
    assert metric(place, "decodes_waiting") == 0
    assert not [line for line in place.lines() if "Traceback" in line]


@pytest.mark.parametrize("name", SENT)
def test_hostile_files(name: str, place: Server, tmp_path: Path) -> None:
    pids = {process.pid for process in processes(place)}
    data = HOSTILE[name](tmp_path)
    with as_fast_as(ANSWER_DECODES):
        answer = send(place, data)
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["type"] in ("undecodable_audio", "invalid_input")
    assert body["error"].startswith("audio_file: ")
    assert [problem["field"] for problem in body["detail"]] == ["audio_file"]
    assert_as_before(place, pids)


def test_the_highest_rate_is_taken(place: Server, tmp_path: Path) -> None:
    path = by_libsndfile(tmp_path / "a", tone(0.5, 384_000), 384_000, "WAV", "PCM_16")
    assert send(place, path.read_bytes(), "/embed/audio").status_code == 200


async def test_more_uploads_at_once_than_may_wait(place: Server, tmp_path: Path) -> None:
    """Those beyond the bound are told when to come back; the others are served."""
    options = ("-c:a", "aac", "-f", "ipod")
    data = by_ffmpeg(tmp_path / "a", tone(60.0), 48_000, *options).read_bytes()
    crowd = 2 * (UPLOAD_THREADS + UPLOADS_WAITING)
    full = 'refused_total{reason="uploads_full"}'
    refused_before = await asyncio.to_thread(metric, place, full)
    limits = httpx.Limits(max_connections=crowd)
    async with httpx.AsyncClient(base_url=place.url, timeout=120, limits=limits) as client:
        answers = await asyncio.gather(
            *(
                client.post("/prompts/audio", files={"audio_file": (f"{n}.m4a", data)})
                for n in range(crowd)
            )
        )
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) - len(refused) >= UPLOAD_THREADS + UPLOADS_WAITING
    assert refused
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["type"] == "overloaded"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert await asyncio.to_thread(metric, place, full) - refused_before == len(refused)


def test_a_mutation_depends_on_its_number_alone(seeds: list[bytes]) -> None:
    again = [mutated(number, seeds) for number in range(50)]
    assert again == [mutated(number, seeds) for number in range(50)]
    assert len(set(again)) > 45
