"""Rows by frame: stored once, read exactly, spliced, and bounded."""

from __future__ import annotations

import numpy as np
import pytest
from fake_model import read_rows, styled

from magenta_bento import conditioning, timeline
from magenta_bento.controls import Controls
from magenta_bento.timeline import Timeline, constant, from_rows

HOUR = 3_600 * 25


def nbytes(made: Timeline) -> int:
    arrays = (made.starts, made.row_of, made.tokens, made.temperature, made.top_k)
    return sum(array.nbytes for array in arrays)


def random_rows(frames: int, kinds: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows that change in about every second frame, of so many kinds."""
    rng = np.random.default_rng(seed)
    styles = rng.integers(0, 1_024, (kinds, 12))
    kind = np.repeat(rng.integers(kinds, size=frames), rng.integers(1, 4, size=frames))[:frames]
    return (
        conditioning.rows(styles[kind]),
        rng.uniform(0, 4, kinds).astype(np.float32)[kind],
        rng.integers(1, 1_025, kinds).astype(np.int32)[kind],
    )


def assert_reads(made: Timeline, first: int, wanted: tuple[np.ndarray, ...]) -> None:
    for got, expected in zip(read_rows(made, first, len(wanted[0])), wanted, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kinds", [1, 2, 7, 300])
def test_every_frame_reads_its_own_row(kinds: int) -> None:
    dense = random_rows(500, kinds)
    made = from_rows(*dense)
    assert_reads(made, 0, dense)
    for first in (0, 1, 7, 250, 495):
        assert_reads(made, first, tuple(part[first : first + 5] for part in dense))
    assert len(made.tokens) <= kinds


def test_after_the_last_row_it_goes_on() -> None:
    dense = random_rows(10, 3)
    made = from_rows(*dense)
    last = tuple(part[[-1] * 4] for part in dense)
    assert_reads(made, 10, last)
    assert_reads(made, 10**6, last)


def test_a_constant_is_one_row() -> None:
    made = constant(np.arange(12), Controls(temperature=0.7, top_k=9))
    assert (len(made.tokens), len(made.starts)) == (1, 1)
    tokens, temperature, top_k = read_rows(made, 3, 2)
    np.testing.assert_array_equal(tokens, conditioning.rows(np.tile(np.arange(12), (2, 1))))
    assert temperature.tolist() == [np.float32(0.7)] * 2
    assert top_k.tolist() == [9, 9]


def test_temperature_and_top_k_alone_make_rows_differ() -> None:
    tokens = conditioning.rows(np.zeros((4, 12)))
    made = from_rows(tokens, [1.0, 1.0, 2.0, 2.0], [5, 5, 5, 6])
    assert len(made.tokens) == 3
    assert read_rows(made, 0, 4)[1].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert read_rows(made, 0, 4)[2].tolist() == [5, 5, 5, 6]


def test_an_hour_of_rows_that_come_back_takes_little() -> None:
    tokens = conditioning.rows(np.arange(8 * 12).reshape(8, 12))
    made = from_rows(tokens[np.arange(HOUR) % 8], 1.3, 40)
    assert len(made.tokens) == 8
    assert nbytes(made) < 1_200_000  # densely it would be 52 MB
    assert_reads(made, HOUR - 8, (tokens, np.full(8, 1.3, np.float32), np.full(8, 40)))


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_rows(50, 20)
    monkeypatch.setattr(timeline, "MAX_ROWS", 3)
    with pytest.raises(ValueError, match="at most 3 different rows, got"):
        from_rows(*dense)
    monkeypatch.undo()
    monkeypatch.setattr(timeline, "MAX_SEGMENTS", 3)
    with pytest.raises(ValueError, match="at most 3 changes, got"):
        from_rows(*dense)
    with pytest.raises(ValueError, match="at least one row"):
        from_rows(np.zeros((0, 144)), 1.3, 40)


@pytest.mark.parametrize("keep_from", [0, 3, 20])
@pytest.mark.parametrize("frame", [0, 1, 5, 20, 40, 60])
def test_a_splice_reads_the_one_and_then_the_other(frame: int, keep_from: int) -> None:
    one, other = random_rows(50, 5, seed=1), random_rows(30, 5, seed=2)
    made = from_rows(*one).spliced(frame, from_rows(*other), keep_from)
    for place in range(keep_from, 90):
        source, index = (one, min(place, 49)) if place < frame else (other, min(place - frame, 29))
        wanted = tuple(part[index : index + 1] for part in source)
        assert_reads(made, place, wanted)


def test_what_is_past_is_forgotten() -> None:
    made = styled(0)
    for change in range(1, 500):
        made = made.spliced(change * 10, styled(change), keep_from=change * 10 - 3)
    assert len(made.tokens) <= 2
    assert nbytes(made) < 1_000


def test_it_cant_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        styled().tokens[0] = 1
