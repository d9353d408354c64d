"""A stream's life, what its reader gets, and how far ahead of the reader it may be."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque

import numpy as np
import pytest
from fake_model import HANG_S, read, read_rows, styled

from magenta_bento.audio.formats import FRAME_SAMPLES
from magenta_bento.engine.stream import Change, Phase, Stream
from magenta_bento.engine.stream_spec import LOOKAHEAD_FRAMES, StreamSpec
from magenta_bento.errors import GenerationFailed, NotReady


def made(frames: int | None, lead: int | None = None) -> Stream:
    spec = StreamSpec(styled(), 0, frames, lead_frames=lead)
    return Stream(spec, asyncio.get_running_loop(), lambda: None)


def audio(start: int, frames: int) -> np.ndarray:
    """int16 [frames * 1920, 2] that counts frames from ``start``."""
    counts = np.arange(start, start + frames, dtype=np.int16)
    return np.repeat(counts, FRAME_SAMPLES)[:, None].repeat(2, 1)


def test_an_endless_stream_needs_a_bounded_lead() -> None:
    with pytest.raises(ValueError, match="needs lead_frames"):
        StreamSpec(styled(), 0, None)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        StreamSpec(styled(), 0, None, lead_frames=0)


LEGAL = {
    Phase.WAITING: {Phase.PLAYING, Phase.CANCELLED, Phase.FAILED},
    Phase.PLAYING: {Phase.FINISHED, Phase.CANCELLED, Phase.FAILED},
}


@pytest.mark.parametrize(("old", "new"), itertools.product(Phase, Phase))
async def test_only_the_drawn_transitions_are_possible(old: Phase, new: Phase) -> None:
    stream = made(1)
    for phase in (Phase.PLAYING, old):
        if stream.phase is not old and old is not Phase.WAITING:
            stream.enter(phase)
    assert stream.phase is old
    if new in LEGAL.get(old, set()):
        stream.enter(new)
        assert stream.phase is new
    else:
        with pytest.raises(RuntimeError, match=f"a {old.value} stream can become .* not"):
            stream.enter(new)
        assert stream.phase is old


async def test_the_warm_up_and_what_is_beyond_the_end_are_cut() -> None:
    stream = made(4)
    stream.enter(Phase.PLAYING)
    assert stream.deliver(audio(0, 1)) == 0
    assert stream.timing.first_block is None
    assert stream.deliver(audio(1, 3)) == 3
    assert stream.timing.first_block is not None
    assert not stream.complete
    assert stream.deliver(audio(4, 3)) == 1
    assert stream.complete
    assert stream.deliver(audio(7, 3)) == 0
    assert stream.frames_made == 4
    stream.enter(Phase.FINISHED)
    async with asyncio.timeout(HANG_S):
        np.testing.assert_array_equal(await read(stream), audio(LOOKAHEAD_FRAMES, 4))


async def test_what_was_delivered_before_a_failure_is_heard() -> None:
    stream = made(10)
    stream.enter(Phase.PLAYING)
    stream.deliver(audio(0, 3))
    stream.enter(Phase.FAILED, GenerationFailed("broken"))
    blocks = []
    with pytest.raises(GenerationFailed, match="broken"):  # noqa: PT012
        async for block in stream.blocks():
            blocks.append(block)  # noqa: PERF401  # what came before the error counts
    np.testing.assert_array_equal(np.concatenate(blocks), audio(1, 2))


async def test_room_is_the_lead_less_what_is_unread() -> None:
    stream = made(None, lead=3)
    stream.enter(Phase.PLAYING)
    assert stream.buffer_space == 4  # the warm-up frame takes no place
    stream.schedule(2)
    assert stream.buffer_space == 2
    stream.deliver(audio(0, 2))
    stream.schedule(2)
    stream.deliver(audio(2, 2))
    assert stream.buffer_space == 0
    blocks = stream.blocks()
    assert len(await anext(blocks)) == FRAME_SAMPLES
    assert stream.buffer_space == 1
    await blocks.aclose()  # type: ignore[attr-defined]  # an async generator
    assert stream.cancel_requested
    assert made(5).buffer_space is None


async def test_a_reset_and_a_change_at_one_boundary_begin_together() -> None:
    stream = made(None, lead=50)
    stream.enter(Phase.PLAYING)
    stream.schedule(5)
    assert (stream.next_frame, stream.next_row) == (4, 5)
    steered = asyncio.create_task(stream.steer(styled(7)))
    reset = asyncio.create_task(stream.reset(9))
    await asyncio.sleep(0)
    assert stream.apply_changes()
    assert await asyncio.gather(steered, reset) == [4, 4]
    # The first frame of the new context is made by the new style, though it is a frame whose codes
    # were drawn by the old one already and are now never heard.
    assert (stream.next_frame, stream.next_row, stream.seed) == (4, 4, 9)
    np.testing.assert_array_equal(
        read_rows(stream.timeline, 4, 1)[0], read_rows(styled(7), 0, 1)[0]
    )


async def test_both_threads_may_refuse_the_changes_of_a_stream_that_ends() -> None:
    """The reader's thread and the device's both reach the one change that is left."""
    stream = made(None, lead=5)
    stream.enter(Phase.PLAYING)
    waiting = asyncio.create_task(stream.steer(styled()))
    await asyncio.sleep(0)
    both = threading.Barrier(2)

    class Contended(deque[Change]):
        def popleft(self) -> Change:
            both.wait(HANG_S)  # until each thread has decided that there is one to take
            return super().popleft()

    stream._changes = Contended(stream._changes)
    failures: list[BaseException] = []

    def refuse() -> None:
        try:
            stream._refuse_changes()
        except BaseException as error:
            failures.append(error)
        finally:
            both.abort()  # the other one may look once more, alone

    threads = [threading.Thread(target=refuse) for _ in range(2)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(lambda: [thread.join(HANG_S) for thread in threads])
    assert [
        error for error in failures if not isinstance(error, threading.BrokenBarrierError)
    ] == []
    with pytest.raises(NotReady, match="ended before"):
        await asyncio.wait_for(waiting, HANG_S)


async def test_a_block_is_a_copy() -> None:
    stream = made(1)
    stream.enter(Phase.PLAYING)
    pcm = audio(0, 2)
    stream.deliver(pcm)
    pcm[:] = 0
    stream.enter(Phase.FINISHED)
    np.testing.assert_array_equal(await read(stream), audio(1, 1))


async def test_a_cancel_after_the_end_is_nothing() -> None:
    stream = made(1)
    stream.enter(Phase.PLAYING)
    stream.enter(Phase.FINISHED)
    stream.cancel()
    assert not stream.cancel_requested


def test_a_stream_whose_loop_is_closed_has_no_reader() -> None:
    loop = asyncio.new_event_loop()
    stream = Stream(StreamSpec(styled(), 0, None, lead_frames=1), loop, lambda: None)
    assert not stream.cancel_requested
    loop.close()
    assert stream.cancel_requested
    stream.enter(Phase.PLAYING)  # wakes nobody, and raises nothing
    stream.deliver(audio(0, 2))
    stream.enter(Phase.CANCELLED)
