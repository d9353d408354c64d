"""Turns by client, the bound, and positions that come true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from fake_model import styled

from magenta_bento.engine.queue import FairQueue
from magenta_bento.engine.stream import Stream
from magenta_bento.engine.stream_spec import StreamSpec


@pytest.fixture(name="loop")
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def waiting(loop: asyncio.AbstractEventLoop, client: str = "") -> Stream:
    return Stream(StreamSpec(styled(), 0, 10, client=client), loop, lambda: None)


def test_clients_take_turns_and_each_is_served_in_order(loop: asyncio.AbstractEventLoop) -> None:
    queue = FairQueue(10)
    streams = {}
    for name in ("a1", "a2", "a3", "b1", "c1", "c2"):
        streams[name] = waiting(loop, name[0])
        queue.push(streams[name])
    names = {id(stream): name for name, stream in streams.items()}
    order = [names[id(queue.pop())] for _ in range(len(queue))]
    assert order == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_client_that_was_just_served_queues_behind_the_others(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = FairQueue(10)
    for client in ("a", "b"):
        queue.push(waiting(loop, client))
    assert queue.pop().spec.client == "a"
    queue.push(waiting(loop, "a"))
    assert [queue.pop().spec.client for _ in range(2)] == ["b", "a"]


def test_it_is_never_longer_than_its_bound(loop: asyncio.AbstractEventLoop) -> None:
    queue = FairQueue(2)
    for client in ("a", "b"):
        assert not queue.full
        queue.push(waiting(loop, client))
    assert queue.full
    with pytest.raises(OverflowError, match="holds 2 streams"):
        queue.push(waiting(loop, "c"))
    assert len(queue) == 2


def test_nobody_to_pop() -> None:
    with pytest.raises(IndexError):
        FairQueue(1).pop()


@pytest.mark.parametrize("seed", range(20))
def test_who_waits_is_told_in_the_order_of_service(
    loop: asyncio.AbstractEventLoop, seed: int
) -> None:
    choose = random.Random(seed)
    queue = FairQueue(100)
    for _ in range(choose.randrange(1, 30)):
        queue.push(waiting(loop, choose.choice("abcd")))
        if choose.random() < 0.3:
            queue.pop()
    predicted = queue.waiting()
    assert [queue.pop() for _ in range(len(queue))] == predicted
    assert queue.waiting() == []


def test_the_cancelled_leave_and_the_others_keep_their_turns(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = FairQueue(10)
    streams = [waiting(loop, client) for client in "aabcc"]
    for stream in streams:
        queue.push(stream)
    for index in (0, 2, 4):
        streams[index].cancel()
    assert queue.remove_cancelled() == [streams[0], streams[2], streams[4]]
    assert queue.waiting() == [streams[1], streams[3]]
    assert queue.remove_cancelled() == []
    assert [queue.pop() for _ in range(2)] == [streams[1], streams[3]]


class Fickle(Stream):
    """A stream that is cancelled right after it was asked, as another thread may do."""

    asked = 0

    @property
    def cancel_requested(self) -> bool:
        self.asked += 1
        return self.asked > 1


def test_a_cancel_while_the_cancelled_are_removed_loses_nobody(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = FairQueue(10)
    stream = Fickle(StreamSpec(styled(), 0, 10), loop, lambda: None)
    queue.push(stream)
    assert queue.remove_cancelled() == []
    assert queue.waiting() == [stream]
    assert queue.remove_cancelled() == [stream]
    assert len(queue) == 0
