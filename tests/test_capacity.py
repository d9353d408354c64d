"""The rules for the number of slots, by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from magenta_bento.capacity import compiled_sizes, fits, keeps_up


@pytest.mark.parametrize(
    ("slots", "sizes"),
    [
        (1, [1]),
        (3, [1, 3]),
        (8, [1, 4, 8]),
        (24, [1, 4, 8, 16, 24]),
        (300, [1, 4, 8, 16, 32, 64, 128, 256, 300]),
    ],
)
def test_the_sizes_below_the_slots_are_compiled_and_the_slots(slots: int, sizes: list[int]) -> None:
    assert compiled_sizes(slots) == sizes


def test_a_fifth_of_a_frames_time_is_left() -> None:
    assert keeps_up(0.0319)
    assert not keeps_up(0.0321)


@pytest.mark.parametrize(("memory_bytes", "expected"), [(2_000, True), (1_999, False)])
def test_a_fifth_of_the_memory_is_left(memory_bytes: int, expected: bool) -> None:
    """1,000 bytes of parameters and two rows of 100 bytes, three times."""
    assert fits(2, 1_000, 100, memory_bytes) is expected


def test_planning_starts_no_jax() -> None:
    code = "import sys, magenta_bento.planning.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
