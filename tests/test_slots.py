"""Rows have one owner each, and what a step reads is its owners' alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from fake_model import read_rows, styled

from magenta_bento.conditioning import MASKED
from magenta_bento.engine.slots import Slots
from magenta_bento.engine.stream import Stream
from magenta_bento.engine.stream_spec import StreamSpec


@pytest.fixture(name="streams")
def _streams() -> Iterator[list[Stream]]:
    loop = asyncio.new_event_loop()
    styles = [styled(5, 0.5, 3), styled(6, 1.5, 7), styled(7, 2.5, 9)]
    yield [Stream(StreamSpec(style, 0, 10), loop, lambda: None) for style in styles]
    loop.close()


def test_a_row_has_one_owner(streams: list[Stream]) -> None:
    slots = Slots(2)
    assert (len(slots), slots.busy, slots.free_row()) == (2, 0, 0)
    slots.take(0, streams[0])
    with pytest.raises(RuntimeError, match="slot 0 is taken"):
        slots.take(0, streams[1])
    slots.take(1, streams[1])
    assert (slots.busy, slots.free_row()) == (2, None)
    slots.release(0)
    assert slots.free_row() == 0
    assert list(slots.occupied()) == [(1, streams[1])]


def test_moving_keeps_the_order_and_tells_the_origin(streams: list[Stream]) -> None:
    slots = Slots(8)
    for row, stream in zip((1, 4, 6), streams, strict=True):
        slots.take(row, stream)
    smaller, origin = slots.compacted(4)
    assert origin == [1, 4, 6]
    assert smaller.rows == [*streams, None]
    larger, origin = smaller.compacted(8)
    assert origin == [0, 1, 2]
    assert larger.rows == [*streams, *[None] * 5]


def test_each_row_reads_its_owners_conditioning(streams: list[Stream]) -> None:
    slots = Slots(4)
    slots.take(0, streams[0])
    slots.take(2, streams[1])
    inputs = slots.inputs({0}, frames=3)
    assert inputs.frames == 3
    assert inputs.active.tolist() == [False, True, True, True]  # rows of nobody go along
    np.testing.assert_array_equal(inputs.tokens[2], read_rows(streams[1].timeline, 0, 3)[0])
    assert (inputs.tokens[[0, 1, 3]] == MASKED).all()  # who stands still reads nothing
    assert inputs.temperature[2].tolist() == [1.5] * 3
    assert inputs.top_k[2].tolist() == [7] * 3
    assert (inputs.tokens.dtype, inputs.temperature.dtype) == (np.int32, np.float32)
    assert (inputs.top_k.dtype, inputs.active.dtype) == (np.int32, np.bool_)


def test_each_frame_of_a_step_reads_its_own_row(streams: list[Stream]) -> None:
    slots = Slots(1)
    changing = streams[0].timeline.spliced(1, streams[1].timeline)
    streams[0].timeline = changing.spliced(3, streams[2].timeline)
    slots.take(0, streams[0])
    inputs = slots.inputs((), frames=5)
    assert inputs.tokens.shape == (1, 5, 144)
    assert inputs.temperature[0].tolist() == [0.5, 1.5, 1.5, 2.5, 2.5]
    assert inputs.top_k[0].tolist() == [3, 7, 7, 9, 9]
    streams[0].schedule(5)
    assert slots.inputs((), frames=1).top_k[0].tolist() == [9]


def test_what_a_step_read_is_not_changed_by_the_next(streams: list[Stream]) -> None:
    slots = Slots(1)
    slots.take(0, streams[0])
    first = slots.inputs((), frames=1)
    streams[0].timeline = streams[1].timeline
    second = slots.inputs((), frames=1)
    assert not np.array_equal(first.tokens, second.tokens)
