"""/ws/jam: what every message does, and from which very frame."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import time
from typing import Any

import jsonschema
import numpy as np
import pytest
import requests
import soundfile
from audio_files import tone
from conftest import until_idle
from jam_client import FRAME, FRAME_BYTES, START, Pcm, first_difference, jam_at, same
from serving import Server

FRAMES = 120  # of the reference
OTHER: list[dict[str, Any]] = [{"text": "slow piano"}]


def post(server: Server, route: str, **how: Any) -> bytes:
    reply = requests.post(f"{server.url}{route}", timeout=60, **how)
    assert reply.status_code == 200, reply.text
    return reply.content


def samples(data: bytes) -> Pcm:
    return np.frombuffer(data, "<i2").reshape(-1, 2)


def fresh(server: Server, seed: int = 1, frames: int = FRAMES, **fields: Any) -> Pcm:
    """What a stream of its own sounds like, by /stream/text."""
    body = {"prompt": "disco funk", "seed": seed, "duration": frames / 25, "format": "pcm"}
    return samples(post(server, "/stream/text", json=body | fields))


@pytest.fixture(scope="module")
def plain(server: Server) -> Pcm:
    """The default start, with nothing changed."""
    return fresh(server)


@pytest.fixture(scope="module")
def wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(0.5), 48_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture(scope="module")
def schema(server: Server) -> dict[str, Any]:
    reply: dict[str, Any] = requests.get(f"{server.url}/ws/jam/schema.json", timeout=10).json()
    return reply


# Start


async def test_a_jam_is_the_stream_of_its_seed(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        started = await jam.start(id="one")
        assert same(await jam.hear(FRAMES), plain)
    assert started == {
        "type": "started",
        "id": "one",
        "frame": 0,
        "seed": 1,
        "model": "demo",
        "format": "pcm",
        "sample_rate": 48_000,
        "channels": 2,
        "frame_samples": FRAME,
        "chunk_ms": 200,
        "lead_ms": 10_000,
    }


async def test_a_seed_is_chosen_and_told(server: Server) -> None:
    async with jam_at(server.url) as jam:
        started = await jam.start(seed=None)
        heard = await jam.hear(25)
    assert same(heard, fresh(server, started["seed"], 25))


@pytest.mark.parametrize("chunk_ms", [40, 120, 400])
async def test_every_chunk_is_as_long_as_asked_for(server: Server, chunk_ms: int) -> None:
    async with jam_at(server.url) as jam:
        await jam.start(chunk_ms=chunk_ms)
        await jam.hear(30)
    assert {len(chunk) for chunk in jam.chunks} == {chunk_ms // 40 * FRAME_BYTES}


async def test_every_setting_reaches_the_model(server: Server, plain: Pcm) -> None:
    for setting in ({"temperature": 0.5}, {"top_k": 2}, {"guidance": -1}):
        async with jam_at(server.url) as jam:
            await jam.start(**setting)
            heard = await jam.hear(20)
        assert same(heard, fresh(server, frames=20, **setting))
        assert not same(heard, plain[: len(heard)])


async def test_drums_are_heard(server: Server) -> None:
    heard = []
    for drums in (None, True, False):
        async with jam_at(server.url) as jam:
            await jam.start(drums=drums)
            heard.append(await jam.hear(40))
    assert not same(heard[0], heard[1])
    assert not same(heard[1], heard[2])
    assert not same(heard[0], heard[2])


async def test_notes_are_heard(server: Server) -> None:
    heard = []
    for notes in (
        {},
        {"notes": [], "notes_mode": "strict"},
        {"notes": [60], "notes_mode": "strict"},
        {"notes": [72], "notes_mode": "strict"},
        {"notes": [60], "notes_width": 12},
        {"notes": [60]},
    ):
        async with jam_at(server.url) as jam:
            await jam.start(**notes)
            heard.append(await jam.hear(60))
    for one, other in itertools.combinations(heard, 2):
        assert not same(one, other)


async def test_without_notes_held_the_model_accompanies_nobody(server: Server, plain: Pcm) -> None:
    """In guide, the default, no notes are no constraint; in strict they are silence."""
    async with jam_at(server.url) as jam:
        await jam.start(notes=[])
        assert same(await jam.hear(40), plain[: 40 * FRAME])


async def test_weights_are_blends(server: Server) -> None:
    body = {
        "text_prompts": ["funk", "jazz"],
        "text_weights": [3, 1],
        "seed": 1,
        "duration": 0.8,
        "format": "pcm",
    }
    blended = post(server, "/stream/blend", json=body)
    async with jam_at(server.url) as jam:
        await jam.start(prompts=[{"text": "funk", "weight": 3}, {"text": "jazz"}])
        heard = await jam.hear(20)
    assert same(heard, samples(blended))


async def test_audio_prompts_by_id_and_inline_are_one(server: Server, wav: bytes) -> None:
    upload = {"audio_file": ("tone.wav", wav)}
    stored = json.loads(post(server, "/prompts/audio", files=upload))
    body = {"seed": "1", "duration": "0.8", "format": "pcm"}
    expected = samples(post(server, "/stream/audio", data=body, files=upload))
    inline = base64.b64encode(wav).decode()
    for prompt in ({"audio_id": stored["audio_id"]}, {"audio": inline}):
        async with jam_at(server.url) as jam:
            await jam.start(prompts=[prompt])
            assert same(await jam.hear(20), expected)


async def test_start_while_playing_begins_anew(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start(seed=8)
        await jam.hear(10)
        await jam.start()
        assert same(await jam.hear(30), plain[: 30 * FRAME])


# Update


async def changed(server: Server, plain: Pcm, update: dict[str, Any]) -> tuple[int, int, Pcm]:
    """The frame that an update announced, the first one that differs, and what was heard."""
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.hear(15)
        ack = await jam.ask(type="update", id="u", **update)
        assert (ack["type"], ack["of"], ack["id"]) == ("ack", "update", "u")
        heard = await jam.hear(FRAMES)
    return ack["frame"], first_difference(heard, plain), heard


@pytest.mark.parametrize(
    ("update", "within"),
    [
        ({"prompts": OTHER}, 2),
        ({"temperature": 0.3}, 2),
        ({"top_k": 1}, 2),
        # These move the demo model so little that the same codes are drawn for a while.
        ({"guidance": 6.8}, 50),
        ({"drums": True}, 50),
        ({"notes": [62]}, 50),
        ({"notes": [62], "notes_mode": "strict", "notes_guidance": 6.8}, 50),
        ({"drums": "on", "drums_guidance": 6}, 50),
        ({"style_levels": 1}, 50),
    ],
)
async def test_a_change_is_heard_from_the_announced_frame_on_and_not_before(
    server: Server, plain: Pcm, update: dict[str, Any], within: int
) -> None:
    announced, differs, _ = await changed(server, plain, update)
    assert announced >= 15
    assert announced <= differs <= announced + within


async def test_a_ramp_begins_softly_and_ends_as_asked(server: Server, plain: Pcm) -> None:
    announced, differs, heard = await changed(server, plain, {"prompts": OTHER, "ramp": 2.0})
    # The first frame of a fade is the old style still.
    assert announced + 1 <= differs <= announced + 50
    cut_at, _, cut = await changed(server, plain, {"prompts": OTHER})
    both = max(announced, cut_at) * FRAME
    assert not same(heard[both:], cut[both:])


async def test_an_update_of_nothing_changes_nothing(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.hear(15)
        # A null says "not given"; only for drums and notes it has a meaning: any.
        await jam.ask(type="update", temperature=None, top_k=None, guidance=None, prompts=None)
        await jam.ask(type="update", drums=None, notes=None)
        assert same(await jam.hear(60), plain[: 60 * FRAME])


async def test_an_update_leaves_what_it_does_not_name(server: Server) -> None:
    """A reset shows the settings in force: they are those of a fresh stream."""
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.ask(type="update", prompts=OTHER)
        await jam.ask(type="update", top_k=3)
        frame = (await jam.ask(type="reset", seed=5))["frame"]
        heard = await jam.hear(frame + 30)
    settings = {"prompt": "slow piano", "top_k": 3}
    assert same(heard[frame * FRAME :], fresh(server, seed=5, frames=30, **settings))


# Pause, resume, reset, stop, ping


async def test_pause_loses_and_repeats_nothing(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        for frames in (10, 20, 30):
            await jam.hear(frames)
            paused = await jam.ask(type="pause")
            assert paused == {"type": "ack", "of": "pause", "id": None, "frame": jam.frames}
            await jam.hear_nothing(0.3)
            assert (await jam.ask(type="ping", id="still there"))["id"] == "still there"
            resumed = await jam.ask(type="resume")
            assert resumed["frame"] == paused["frame"]
        assert same(await jam.hear(FRAMES), plain)


async def test_pause_and_resume_twice_are_as_once(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.hear(10)
        for word in ("pause", "pause", "resume", "resume"):
            assert (await jam.ask(type=word))["of"] == word
        assert same(await jam.hear(40), plain[: 40 * FRAME])


async def test_a_reset_is_a_fresh_stream_from_its_frame_on(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.hear(15)
        frame = (await jam.ask(type="reset", seed=9))["frame"]
        heard = await jam.hear(frame + 40)
    assert same(heard[: frame * FRAME], plain[: frame * FRAME])
    assert same(heard[frame * FRAME :], fresh(server, seed=9, frames=40))


async def test_a_reset_without_a_seed_takes_another(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        frame = (await jam.ask(type="reset"))["frame"]
        heard = await jam.hear(frame + 20)
    assert not same(heard[frame * FRAME :], plain[: 20 * FRAME])


async def test_stop_then_start_again(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        await jam.start(seed=4)
        await jam.hear(10)
        stopped = await jam.ask(type="stop")
        assert stopped == {"type": "ack", "of": "stop", "id": None, "frame": jam.frames}
        await jam.hear_nothing(0.3)
        refused = await jam.ask(type="pause")
        assert (refused["type"], refused["fatal"]) == ("error", False)
        await jam.start()
        assert same(await jam.hear(30), plain[: 30 * FRAME])


async def test_a_stop_while_paused(server: Server) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.ask(type="pause")
        assert (await jam.ask(type="stop"))["type"] == "ack"
        until_idle(server)
        assert (await jam.ask(type="ping"))["type"] == "pong"


# Stats and time


async def test_stats(server: Server) -> None:
    async with jam_at(server.url) as jam:
        await jam.start(lead_ms=1_000)
        for _ in range(3):
            told = await jam.stats()
        assert sorted(told) == ["frame", "lead_ms", "queue", "rtf", "type", "underruns"]
        assert abs(told["frame"] - jam.frames) <= 5
        assert 0 < told["lead_ms"] <= 1_000
        assert told["rtf"] > 0
        assert told["queue"] is None


@pytest.mark.parametrize(("lead_ms", "chunk_ms"), [(400, 40), (2_000, 200)])
async def test_the_lead_is_bounded(server: Server, lead_ms: int, chunk_ms: int) -> None:
    async with jam_at(server.url) as jam:
        await jam.start(lead_ms=lead_ms, chunk_ms=chunk_ms)
        await jam.hear(1)
        began = time.monotonic()
        leads = []
        while jam.frames < 100:
            if (await jam.next())["type"] == "audio":
                leads.append(jam.frames * 40 - 1_000 * (time.monotonic() - began))
    assert max(leads) <= lead_ms + 100
    assert all(told["lead_ms"] <= lead_ms for told in jam.told if told["type"] == "stats")


async def test_a_pause_does_not_raise_the_lead(server: Server) -> None:
    async with jam_at(server.url) as jam:
        await jam.start(lead_ms=400, chunk_ms=120)
        await jam.hear(30)
        began, before = time.monotonic(), jam.frames
        for _ in range(10):
            for word in ("pause", "resume"):
                await jam.ask(type=word)
        await jam.hear(before + 25)
        passed_ms = 1_000 * (time.monotonic() - began)
        assert (jam.frames - before) * 40 <= passed_ms + 400 + 100


async def test_ogg_is_opus_in_pieces(server: Server, plain: Pcm) -> None:
    async with jam_at(server.url) as jam:
        started = await jam.start(format="ogg")
        assert started["format"] == "ogg"
        while (await jam.stats())["frame"] < 75:
            pass
    decoded, rate_hz = soundfile.read(io.BytesIO(b"".join(jam.chunks)), dtype="int16")
    assert rate_hz == 48_000
    n = min(len(decoded), len(plain))
    assert n > 60 * FRAME
    a, b = decoded[:n].astype(float).ravel(), plain[:n].astype(float).ravel()
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.9


# Others


async def test_two_sessions_do_not_hear_each_other(server: Server, plain: Pcm) -> None:
    other = fresh(server, seed=2, frames=60, prompt="slow piano")
    async with jam_at(server.url) as one, jam_at(server.url) as two:
        await one.start()
        await one.hear(10)
        await two.start(seed=2, prompts=OTHER)
        heard = await asyncio.gather(one.hear(60), two.hear(60))
        await one.ask(type="update", prompts=OTHER)
        await one.ask(type="reset")
        assert same(await two.hear(60), other)
    assert same(heard[0], plain[: 60 * FRAME])
    assert same(heard[1], other)


async def test_twenty_abrupt_disconnects_leave_no_slot(server: Server, idle: None) -> None:
    async def drop(wait_for_music: bool) -> None:
        async with jam_at(server.url) as jam:
            await jam.socket.send(json.dumps(START))
            if wait_for_music:
                await jam.hear_first()
            jam.socket.transport.abort()

    await asyncio.gather(*(drop(bool(i % 2)) for i in range(20)))
    await asyncio.to_thread(until_idle, server)


# Messages that can't be done


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("", "JSON"),
        ("[]", "object"),
        (b"\xff\x00", "JSON"),
        ('{"type": "dance"}', "dance"),
        ("{}", "type"),
        ('{"type": "update", "tempo": 120}', "tempo"),
        ('{"type": "update", "temperature": 5}', "temperature"),
        ('{"type": "update", "temperature": NaN}', "temperature"),
        ('{"type": "update", "ramp": 31}', "ramp"),
        ('{"type": "update", "notes": [60, 128]}', "notes.1"),
        ('{"type": "update", "notes": [-1]}', "notes.0"),
        ('{"type": "update", "notes": [60.5]}', "notes.0"),
        ('{"type": "update", "notes": 60}', "notes"),
        ('{"type": "update", "prompts": []}', "prompts"),
        ('{"type": "update", "prompts": [{"text": ""}]}', "text"),
        ('{"type": "update", "prompts": [{"text": "a", "weight": 0}]}', "weight"),
        ('{"type": "update", "prompts": [{"text": "a", "audio_id": "b"}]}', "exactly one"),
        ('{"type": "update", "prompts": [{"text": "a", "weight": -1}]}', "positive sum"),
        ('{"type": "update", "prompts": [{"audio_id": "nobody\'s"}]}', "unknown"),
        ('{"type": "update", "prompts": [{"audio": "%%%"}]}', "base64"),
        ('{"type": "update", "prompts": [{"audio": "AAAA"}]}', "prompts[0].audio"),
        ('{"type": "start", "prompts": [{"text": "a"}], "chunk_ms": 50}', "chunk_ms"),
        ('{"type": "start", "prompts": [{"text": "a"}], "lead_ms": 119}', "lead_ms"),
        (
            '{"type": "start", "prompts": [{"text": "a"}], "lead_ms": 200, "chunk_ms": 120}',
            "chunk_ms",
        ),
        ('{"type": "reset", "seed": -1}', "seed"),
    ],
)
async def test_a_wrong_message_is_told_and_the_music_goes_on(
    server: Server, plain: Pcm, raw: str | bytes, told: str
) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        await jam.hear(5)
        error = await jam.say(raw)
        assert (error["type"], error["fatal"]) == ("error", False), error
        assert error["error_type"] in ("invalid_input", "undecodable_audio")
        assert told in error["error"]
        assert same(await jam.hear(20), plain[: 20 * FRAME])


async def test_an_error_names_its_message(server: Server) -> None:
    async with jam_at(server.url) as jam:
        for message in ({"type": "pause", "id": "a"}, {"type": "dance", "id": "a"}):
            assert (await jam.ask(**message))["id"] == "a"


async def test_the_first_message_is_start(server: Server) -> None:
    async with jam_at(server.url) as jam:
        assert (await jam.ask(type="ping"))["type"] == "pong"
        for word in ("update", "pause", "resume", "reset", "stop"):
            error = await jam.ask(type=word)
            assert (error["type"], error["fatal"]) == ("error", False)
            assert "start" in error["error"]


async def test_answers_come_in_order(server: Server) -> None:
    async with jam_at(server.url) as jam:
        await jam.start()
        for i in range(20):
            await jam.socket.send(json.dumps({"type": "ping", "id": str(i)}))
        assert [(await jam.answer())["id"] for _ in range(20)] == [str(i) for i in range(20)]


# The schema


async def test_the_schema_describes_what_is_sent(
    server: Server, schema: dict[str, Any], wav: bytes
) -> None:
    messages: list[dict[str, Any]] = [
        START,
        {"type": "update", "prompts": OTHER, "ramp": 0.2, "top_k": 7},
        {"type": "pause"},
        {"type": "resume", "id": "r"},
        {"type": "reset", "seed": 3},
        {"type": "ping"},
        {"type": "stop"},
    ]
    async with jam_at(server.url) as jam:
        for message in messages:
            jsonschema.validate(message, schema["client"])
            await jam.ask(**message)
            if message is START:
                await jam.stats()
        await jam.say("{}")
    kinds = {told["type"] for told in jam.told}
    assert kinds == {"started", "ack", "stats", "pong", "error"}
    for told in jam.told:
        jsonschema.validate(told, schema["server"])


def test_the_schema_refuses_what_the_server_refuses(schema: dict[str, Any]) -> None:
    for wrong in ({"type": "dance"}, {**START, "tempo": 1}, {**START, "chunk_ms": 50}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema["client"])
