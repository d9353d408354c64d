"""Many streams through one engine: each hears what it would hear alone, and none gets lost."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from fake_model import HANG_S, FakeModel, Rig, heard, read, rig, styled, until

from magenta_bento import timeline
from magenta_bento.audio.formats import FRAME_SAMPLES
from magenta_bento.audio.pcm import Pcm
from magenta_bento.engine import batch as batch_module
from magenta_bento.engine import engine as engine_module
from magenta_bento.engine import statistics
from magenta_bento.engine.batch import SHRINK_AFTER_STEPS
from magenta_bento.engine.stream import Phase, Stream
from magenta_bento.engine.stream_spec import StreamSpec
from magenta_bento.errors import InvalidInput, NotReady, Overloaded


@pytest.fixture(autouse=True)
def no_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the net under lost wake-ups, a lost one hangs and its test fails."""
    monkeypatch.setattr(engine_module, "IDLE_WAIT_S", 3_600.0)


@pytest.fixture(name="one")
def _one() -> Iterator[Rig]:
    """One slot."""
    with rig(FakeModel(batch_sizes=(1,)), queue_bound=2) as made:
        yield made


@pytest.fixture(name="many")
def _many() -> Iterator[Rig]:
    """One, four or eight slots."""
    with rig(FakeModel()) as made:
        yield made


async def blocked(made: Rig, frames: int | None = 20, lead: int | None = None) -> Stream:
    """A stream that plays, in a step that does not return."""
    made.model.gate.clear()
    stream = made.submit(frames, lead=lead)
    await until(lambda: stream.phase is Phase.PLAYING)
    return stream


async def blocked_in_a_step(made: Rig, stream: Stream) -> None:
    """Has the stream's next step not return until the gate opens."""
    made.model.gate.clear()
    await until(lambda: stream.phase is Phase.PLAYING)


# What a stream hears.


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 23, 100])
async def test_a_stream_gets_exactly_its_frames(many: Rig, frames: int) -> None:
    stream = many.submit(frames, seed=5)
    np.testing.assert_array_equal(await read(stream), heard(5, frames))
    assert stream.phase is Phase.FINISHED
    assert stream.frames_made == frames
    await many.at_rest()


async def test_seed_and_every_part_of_the_conditioning_reach_the_model(many: Rig) -> None:
    styles = [styled(3), styled(4), styled(3, temperature=0.5), styled(3, top_k=7)]
    streams = [many.submit(8, seed=seed, style=style) for seed in (1, 2) for style in styles]
    expected = [heard(seed, 8, style) for seed in (1, 2) for style in styles]
    for stream, wanted in zip(streams, expected, strict=True):
        np.testing.assert_array_equal(await read(stream), wanted)


@pytest.mark.parametrize("sizes", [(1,), (4,), (1, 4, 8)])
@pytest.mark.parametrize("seed", range(3))
async def test_company_changes_nothing(
    sizes: tuple[int, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joins, leaves, cancels, slot reuse and other batch sizes: all as in the solo run."""
    monkeypatch.setattr(batch_module, "SHRINK_AFTER_STEPS", 1)
    choose = random.Random(seed)

    async def listen(made: Rig, number: int) -> None:
        for _ in range(choose.choice([0, 0, 5, 30])):
            await asyncio.sleep(0)
        style, frames = (
            styled(choose.randrange(20), top_k=choose.randrange(1, 99)),
            choose.choice([1, 3, 10, 40, 90]),
        )
        lead = choose.choice([None, 1, 7, 30])
        stream = made.submit(frames, seed=number, style=style, lead=lead, client=str(number % 5))
        leaves_after = choose.choice([None, None, 1, 4])
        blocks: list[Pcm] = []
        async for block in stream.blocks():
            blocks.append(block)
            if len(blocks) == leaves_after:
                stream.cancel()
        got = np.concatenate(blocks) if blocks else heard(number, 0, style)
        wanted = heard(number, frames, style)
        if leaves_after is None:
            assert stream.phase is Phase.FINISHED
            assert len(got) == len(wanted)
        np.testing.assert_array_equal(got, wanted[: len(got)])

    async def begin(made: Rig) -> None:
        made.engine.start()

    with rig(FakeModel(batch_sizes=sizes), started=False) as made:
        await asyncio.gather(*(listen(made, number) for number in range(40)), begin(made))
        await made.at_rest()
        assert made.metric("step_failures_total") == 0
        assert max(size for size, _ in made.model.steps) == sizes[-1]


async def test_a_new_conditioning_is_heard_from_the_announced_frame_on(one: Rig) -> None:
    before, after = styled(1), styled(2)
    stream = one.submit(None, seed=3, style=before, lead=5)
    await until(lambda: stream.frames_made == 5)
    frame = await stream.steer(after)
    assert frame == 5
    blocks = stream.blocks()
    got = np.concatenate([await anext(blocks) for _ in range(4)])[::FRAME_SAMPLES]
    stream.cancel()
    frames = len(got)
    assert frames > 5
    np.testing.assert_array_equal(got[:5], heard(3, 5, before)[::FRAME_SAMPLES])
    np.testing.assert_array_equal(got[5:], heard(3, frames, after)[::FRAME_SAMPLES][5:])


async def test_a_timeline_is_followed_frame_by_frame(one: Rig) -> None:
    styles = [styled(n) for n in range(4)]
    stream = one.submit(None, seed=3, style=styles[0], lead=1)
    blocks = stream.blocks()
    got = [await anext(blocks)]
    frame = await stream.steer(styles[1].spliced(2, styles[2]).spliced(4, styles[3]))
    while sum(map(len, got)) < (frame + 7) * FRAME_SAMPLES:
        got.append(await anext(blocks))
    stream.cancel()
    played = np.concatenate(got)[::FRAME_SAMPLES]
    for first, last, style in ((0, 0, 0), (0, 2, 1), (2, 4, 2), (4, 7, 3)):
        start, end = (0, frame) if style == 0 else (frame + first, frame + last)
        expected = heard(3, end, styles[style])[::FRAME_SAMPLES][start:end]
        np.testing.assert_array_equal(played[start:end], expected)


async def test_changes_within_a_step_land_on_their_frames(one: Rig) -> None:
    """Steps are five frames long here, and no step is cut for a change that names its frame."""
    styles = [styled(n) for n in range(4)]
    stream = one.submit(60, seed=3, style=styles[0], lead=60)
    await blocked_in_a_step(one, stream)
    changes = [
        asyncio.create_task(stream.steer(style, row))
        for style, row in zip(styles[1:], (41, 42, 44), strict=True)
    ]
    await asyncio.sleep(0)
    one.model.gate.set()
    assert await asyncio.gather(*changes) == [40, 41, 43]
    played = await read(stream)
    given = styles[0].spliced(41, styles[1]).spliced(42, styles[2]).spliced(44, styles[3])
    np.testing.assert_array_equal(played, heard(3, 60, given))
    assert {frames for _, frames in one.model.steps[:12]} == {5}


async def test_a_change_for_a_frame_that_is_past_comes_at_once(one: Rig) -> None:
    stream = one.submit(None, seed=3, style=styled(1), lead=5)
    await until(lambda: stream.frames_made == 5)
    assert await stream.steer(styled(2), 3) == 5
    stream.cancel()


async def test_a_timeline_that_grows_too_large_is_refused_and_the_music_goes_on(
    one: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = one.submit(None, seed=3, lead=5)
    await until(lambda: stream.frames_made == 5)
    monkeypatch.setattr(timeline, "MAX_ROWS", 1)
    with pytest.raises(InvalidInput, match="at most 1 different rows, got 2"):
        await stream.steer(styled(2), 1_000)
    assert stream.phase is Phase.PLAYING
    assert one.metric("step_failures_total") == 0
    stream.cancel()


async def test_a_reset_starts_a_fresh_context_without_a_gap(one: Rig) -> None:
    stream = one.submit(None, seed=3, lead=4)
    blocks = stream.blocks()
    got = [await anext(blocks)]
    frame = await stream.reset(9)
    while sum(map(len, got)) < (frame + 6) * FRAME_SAMPLES:
        got.append(await anext(blocks))
    stream.cancel()
    played = np.concatenate(got)[::FRAME_SAMPLES]
    np.testing.assert_array_equal(played[:frame], heard(3, frame)[::FRAME_SAMPLES])
    np.testing.assert_array_equal(played[frame : frame + 6], heard(9, 6)[::FRAME_SAMPLES])


async def test_a_change_of_a_stream_that_ended_is_refused(one: Rig) -> None:
    stream = one.submit(2)
    await read(stream)
    with pytest.raises(NotReady, match="ended"):
        await stream.steer(styled())


# Who waits.


async def test_clients_take_turns() -> None:
    with rig(FakeModel(batch_sizes=(1,)), started=False) as made:
        names = ["a1", "a2", "a3", "a4", "b1", "c1", "c2"]
        streams = {name: made.submit(3, client=name[0]) for name in names}
        positions = {name: made.engine.position(stream) for name, stream in streams.items()}
        made.engine.start()
        await asyncio.gather(*(read(stream) for stream in streams.values()))
        order = sorted(names, key=lambda name: streams[name].timing.playing or math.inf)
        assert order == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]
        assert sorted(names, key=lambda name: positions[name] or 0) == order
        assert {made.engine.position(stream) for stream in streams.values()} == {None}


async def test_beyond_the_bound_is_refused_with_an_honest_delay(one: Rig) -> None:
    playing = await blocked(one, frames=100)
    assert one.engine.position(playing) is None
    waiting = [one.submit(3) for _ in range(2)]
    assert [one.engine.position(stream) for stream in waiting] == [0, 1]
    with pytest.raises(Overloaded, match="2 requests wait already") as refused:
        one.submit(3)
    assert refused.value.retry_after_s == 1  # no speed is known yet
    one.engine._statistics.frames_per_s = 10.0
    with pytest.raises(Overloaded) as refused:
        one.submit(3)
    assert refused.value.retry_after_s == math.ceil((playing.frames_to_schedule or 0) / 10) > 1
    assert one.metric("refused_total", reason="queue_full") == 2
    waiting[0].cancel()
    one.model.gate.set()
    await read(playing)
    np.testing.assert_array_equal(await read(waiting[1]), heard(0, 3))
    await one.at_rest()
    np.testing.assert_array_equal(await read(one.submit(3)), heard(0, 3))


async def test_the_delay_is_within_its_range_whatever_plays(one: Rig) -> None:
    low, high = statistics.RETRY_AFTER_RANGE_S
    books = one.engine._statistics
    books.frames_per_s = 1e-9
    assert books.retry_after_s([]) == low  # nobody plays: nobody to wait for
    stream = await blocked(one, frames=100)
    books.frames_per_s = 1e-9
    assert books.retry_after_s([stream]) == high
    stream.cancel()
    one.model.gate.set()
    await one.at_rest()
    endless = await blocked(one, frames=None, lead=5)
    assert books.retry_after_s([endless]) == low
    endless.cancel()


async def test_those_for_whom_a_slot_is_free_do_not_fill_the_queue() -> None:
    """A burst on an idle server: slots are only given at the next step boundary."""
    with rig(FakeModel(batch_sizes=(1, 4)), queue_bound=1, started=False) as made:
        streams = [made.submit(3, seed=seed) for seed in range(5)]
        with pytest.raises(Overloaded, match="1 requests wait"):
            made.submit(3)
        made.engine.start()
        for seed, stream in enumerate(streams):
            np.testing.assert_array_equal(await read(stream), heard(seed, 3))


# How far ahead.


@pytest.mark.parametrize("lead", [1, 3, 5, 12])
async def test_an_unread_stream_stands_still_and_others_go_on(many: Rig, lead: int) -> None:
    slow = many.submit(None, seed=1, lead=lead)
    await until(lambda: slow.frames_made == lead)
    np.testing.assert_array_equal(await read(many.submit(200, seed=2)), heard(2, 200))
    assert slow.frames_made == lead
    blocks = slow.blocks()
    got = [await anext(blocks)]
    while sum(map(len, got)) < 50 * FRAME_SAMPLES:
        assert slow.frames_made - sum(map(len, got)) // FRAME_SAMPLES <= lead
        got.append(await anext(blocks))
    played = np.concatenate(got)
    np.testing.assert_array_equal(played, heard(1, len(played) // FRAME_SAMPLES))
    slow.cancel()
    async for _ in blocks:
        pass
    assert slow.phase is Phase.CANCELLED
    await many.at_rest()


async def test_an_engine_with_nothing_to_do_does_not_turn(
    many: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    admit = many.engine._admit

    def counted() -> None:
        nonlocal turns
        turns += 1
        admit()

    monkeypatch.setattr(many.engine, "_admit", counted)
    streams = [many.submit(None, seed=seed, lead=4) for seed in range(3)]
    await until(lambda: all(stream.frames_made == 4 for stream in streams))
    many.engine._work.set()  # whatever is left of the last step is done within two turns
    await until(lambda: not many.engine._work.is_set())
    before = turns
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert turns - before <= 2
    for stream in streams:
        stream.cancel()
    await many.at_rest()


# Who goes away.


async def test_a_cancel_while_waiting(one: Rig) -> None:
    playing = await blocked(one)
    waiting = one.submit(5)
    waiting.cancel()
    one.model.gate.set()
    assert len(await read(waiting)) == 0
    assert waiting.phase is Phase.CANCELLED
    assert waiting.timing.playing is None
    np.testing.assert_array_equal(await read(playing), heard(0, 20))
    assert one.model.calls["insert"] == 1


async def test_a_cancel_while_waiting_behind_streams_that_stand_still(one: Rig) -> None:
    still = one.submit(None, lead=2)
    await until(lambda: still.frames_made == 2)
    waiting = one.submit(5)
    waiting.cancel()
    assert len(await read(waiting)) == 0
    still.cancel()
    await one.at_rest()


async def test_a_cancel_while_playing_frees_the_slot_within_a_step(one: Rig) -> None:
    stream = await blocked(one, frames=1_000)
    waiting = one.submit(7, seed=2)
    stream.cancel()
    one.model.gate.set()
    np.testing.assert_array_equal(await read(waiting), heard(2, 7))
    assert stream.phase is Phase.CANCELLED
    # The blocked step's audio came after the end: it is nobody's.
    assert stream.frames_made == 0
    assert one.metric("frames_total") == 7


async def test_a_reader_that_is_closed_frees_the_slot(one: Rig) -> None:
    stream = one.submit(None, lead=3)
    blocks = stream.blocks()
    await anext(blocks)
    await blocks.aclose()  # type: ignore[attr-defined]  # an async generator
    await one.at_rest()
    assert stream.phase is Phase.CANCELLED


async def test_a_reader_task_that_is_cancelled_frees_the_slot(one: Rig) -> None:
    stream = one.submit(None, lead=3)

    async def listen() -> None:
        async for _ in stream.blocks():
            pass

    task = asyncio.create_task(listen())
    await until(lambda: stream.frames_made > 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one.at_rest()
    assert stream.phase is Phase.CANCELLED


async def test_a_loop_that_is_closed_frees_the_slot(
    one: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "IDLE_WAIT_S", 0.01)
    loop = asyncio.new_event_loop()
    stream = one.engine.submit(StreamSpec(styled(), 0, None, lead_frames=3), loop)
    await until(lambda: stream.frames_made == 3)
    loop.close()
    await one.at_rest()
    assert stream.phase is Phase.CANCELLED


# The batch follows.


async def test_the_batch_grows_at_once_and_shrinks_after_a_while(many: Rig) -> None:
    long = many.submit(5 * (SHRINK_AFTER_STEPS + 100), seed=1)
    short = [many.submit(5, seed=seed) for seed in range(2, 8)]
    for seed, stream in enumerate(short, 2):
        np.testing.assert_array_equal(await read(stream), heard(seed, 5))
    wanted = heard(1, 5 * (SHRINK_AFTER_STEPS + 100))
    np.testing.assert_array_equal(await read(long), wanted)
    sizes = [size for size, _ in many.model.steps]
    assert max(sizes) == 8
    assert sizes[-1] == 1
    assert sizes[sizes.index(8) :].count(8) > SHRINK_AFTER_STEPS


# The end.


async def test_a_drain_refuses_the_new_and_waits_for_the_rest(one: Rig) -> None:
    playing = await blocked(one)
    waiting = one.submit(4, seed=2)
    assert not one.engine.drain(0)
    with pytest.raises(NotReady, match="shutting down") as refused:
        one.submit(3)
    assert (refused.value.retry_after_s or 0) >= 1
    drained = asyncio.create_task(asyncio.to_thread(one.engine.drain, HANG_S))
    one.model.gate.set()
    np.testing.assert_array_equal(await read(playing), heard(0, 20))
    np.testing.assert_array_equal(await read(waiting), heard(2, 4))
    assert await drained
    assert one.engine.active == one.engine.waiting == 0


async def test_an_idle_engine_drains_at_once(one: Rig) -> None:
    await read(one.submit(3))
    await until(one.engine._idle.is_set)
    assert one.engine.drain(0)


async def test_a_stop_tells_those_who_wait_and_those_who_play(one: Rig) -> None:
    playing = await blocked(one, frames=1_000)
    waiting = one.submit(4)
    stopped = asyncio.create_task(asyncio.to_thread(one.engine.stop))
    await until(lambda: one.engine._stop)
    one.model.gate.set()
    await stopped
    for stream in (playing, waiting):
        with pytest.raises(NotReady, match="shutting down"):
            await read(stream)
        assert stream.phase is Phase.FAILED
    assert not one.engine.alive
    assert one.deaths == []
    one.engine.stop()  # a second time is nothing
    with pytest.raises(NotReady):
        one.submit(3)


async def test_a_stop_wakes_an_engine_whose_streams_stand_still(many: Rig) -> None:
    streams = [many.submit(None, lead=2) for _ in range(3)]
    await until(lambda: all(stream.frames_made == 2 for stream in streams))
    await asyncio.to_thread(many.engine.stop)
    for stream in streams:
        with pytest.raises(NotReady):
            await read(stream)


async def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    with rig(FakeModel()) as made:
        await read(made.submit(3))
        assert {thread.name for thread in set(threading.enumerate()) - before} == {
            "device",
            "watchdog",
        }
    assert set(threading.enumerate()) <= before


# What is counted.


async def test_the_figures(many: Rig) -> None:
    assert many.metric("slots") == 8
    await asyncio.gather(*(read(many.submit(frames)) for frames in (10, 7)))
    gone = many.submit(None, lead=3)
    await until(lambda: gone.frames_made == 3)
    assert many.metric("active_streams") == 1
    gone.cancel()
    await many.at_rest()
    await until(lambda: many.metric("active_streams") == 0)
    assert many.metric("frames_total") == 10 + 7 + 3
    assert many.metric("streams_total", outcome="finished") == 2
    assert many.metric("streams_total", outcome="cancelled") == 1
    assert many.metric("streams_total", outcome="failed") == 0
    assert many.metric("queue_length") == 0
    assert many.metric("queue_wait_seconds_count") == 3
    assert many.metric("first_frame_seconds_count") == 3
    assert many.metric("real_time_factor_count") == 2
    assert many.metric("step_frame_seconds_count") == many.model.calls["step"]
    assert many.metric("batch_occupancy_ratio_count") == many.model.calls["step"]
    assert many.metric("batch_occupancy_ratio_bucket", le="+Inf") == many.model.calls["step"]
    assert many.metric("step_failures_total") == 0


async def test_two_hundred_requests_of_sixteen_clients_leave_nothing_behind() -> None:
    choose = random.Random(0)
    streams: list[Stream] = []

    async def client(made: Rig, name: str, requests: int) -> int:
        finished = 0
        for _ in range(requests):
            seed, frames = choose.randrange(2**32), choose.randrange(1, 60)
            stream = made.submit(frames, seed=seed, client=name)
            streams.append(stream)
            leaves = choose.choice(["never", "never", "at once", "while it plays", "its task dies"])
            if leaves == "never":
                np.testing.assert_array_equal(await read(stream), heard(seed, frames))
                finished += 1
            elif leaves == "at once":
                stream.cancel()
            elif leaves == "while it plays":
                blocks = stream.blocks()
                await anext(blocks)
                await blocks.aclose()  # type: ignore[attr-defined]  # an async generator
            else:
                task = asyncio.create_task(read(stream))
                for _ in range(choose.randrange(5)):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        return finished

    with rig(FakeModel(), queue_bound=64) as made:
        counts = [13] * 8 + [12] * 8
        clients = [client(made, str(number), count) for number, count in enumerate(counts)]
        finished = sum(await asyncio.gather(*clients))
        await made.at_rest()
        await until(made.engine._idle.is_set)
        assert len(streams) == sum(counts) == 200
        assert all(stream.phase in (Phase.FINISHED, Phase.CANCELLED) for stream in streams)
        outcomes = [made.metric("streams_total", outcome=o) for o in ("finished", "cancelled")]
        assert sum(outcomes) == 200
        assert outcomes[0] >= finished
        assert made.metric("active_streams") == made.metric("queue_length") == 0
        assert made.engine.alive
