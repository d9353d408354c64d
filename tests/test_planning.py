"""Capacity planning: against Erlang, simulations, the traced graph, its page and a real server."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import FrameType

import graph_costs
import pytest
import requests
from click.testing import CliRunner, Result
from fake_model import FakeModel, FakeState, rig, until
from prometheus_client.parser import text_string_to_metric_families
from serving import REPOSITORY, Server, serving

from magenta_bento.audio.formats import FRAME_S
from magenta_bento.capacity import BATCH_SIZES
from magenta_bento.cli import main
from magenta_bento.engine.stream import Phase
from magenta_bento.errors import Unplannable
from magenta_bento.model import loader
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.planning import fleet as planned
from magenta_bento.planning import roofline
from magenta_bento.planning.fleet import (
    Constraint,
    Demand,
    Fleet,
    Target,
    binding_constraint,
    smallest_fleet,
)
from magenta_bento.planning.gpus import GPUS
from magenta_bento.planning.queueing import Station
from magenta_bento.planning.workload import WORKLOADS

PAGE = REPOSITORY / "docs" / "capacity.md"
PAIRS = list(itertools.product(WORKLOADS.values(), GPUS.values()))
PAIR_NAMES = [f"{work.model}-{gpu.name}" for work, gpu in PAIRS]


# Erlang.


def delay_system(arrivals_per_s: float, holding_s: float, slots: int) -> Station:
    """M/M/c: a slot is held for ``holding_s`` on average, however many others are."""
    return Station(arrivals_per_s, [busy / holding_s for busy in range(1, slots + 1)])


def erlangs_formula(load: Fraction, slots: int) -> Fraction:
    """The probability of waiting as Erlang wrote it, in exact arithmetic."""
    below = sum((load**n / math.factorial(n) for n in range(slots)), Fraction(0))
    full = load**slots / math.factorial(slots) * slots / (slots - load)
    return full / (below + full)


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("utilisation", [Fraction(1, 10), Fraction(6, 10), Fraction(95, 100)])
def test_equal_speeds_give_erlangs_formula(slots: int, utilisation: Fraction) -> None:
    holding_s = 7.5
    station = delay_system(float(utilisation * slots) / holding_s, holding_s, slots)
    assert station.utilisation == pytest.approx(float(utilisation))
    exact = float(erlangs_formula(utilisation * slots, slots))
    assert station.wait_probability == pytest.approx(exact, rel=1e-9)
    assert station.mean_wait_s == pytest.approx(
        exact * holding_s / (slots * (1 - float(utilisation))), rel=1e-9
    )
    assert station.mean_busy_slots == pytest.approx(float(utilisation) * slots)  # Little's law
    assert station.mean_in_slot_s == pytest.approx(holding_s)


def test_one_and_two_slots_by_hand() -> None:
    assert delay_system(0.6, 1.0, 1).wait_probability == pytest.approx(0.6)
    assert delay_system(1.2, 1.0, 2).wait_probability == pytest.approx(0.45)  # 2 r^2 / (1 + r)


def test_no_number_of_slots_overflows() -> None:
    station = delay_system(99_900.0, 1.0, 100_000)
    assert 0 < station.wait_probability < 1
    assert math.isfinite(station.wait_quantile_s(0.999))
    assert station.queue_length_probability(10_000) < 1e-4


def test_the_quantile_is_where_the_tail_says() -> None:
    station = delay_system(1.8, 1.0, 2)
    for quantile in (0.5, 0.9, 0.99):
        wait_s = station.wait_quantile_s(quantile)
        tail = station.wait_probability * math.exp(-(2 - 1.8) * wait_s)
        assert tail == pytest.approx(1 - quantile)
    assert delay_system(0.1, 1.0, 2).wait_quantile_s(0.95) == 0


@pytest.mark.parametrize("arrivals_per_s", [2.0, 2.5])
def test_a_line_that_only_grows_is_endless(arrivals_per_s: float) -> None:
    station = delay_system(arrivals_per_s, 1.0, 2)
    assert not station.stable
    assert station.wait_probability == station.queue_length_probability(64) == 1
    assert station.mean_wait_s == station.wait_quantile_s(0.5) == math.inf
    assert station.mean_in_slot_s == pytest.approx(1.0)


def test_nobody_who_comes_waits_for_nobody() -> None:
    station = delay_system(0.0, 2.0, 4)
    assert station.wait_probability == station.mean_wait_s == station.mean_busy_slots == 0
    assert station.mean_in_slot_s == 2


# Simulations. Work is in seconds of a slot that works at speed 1.


def waits_at(slots: int, gaps_s: Sequence[float], work_s: Sequence[float]) -> list[float]:
    """Waits at slots that don't slow each other down; first come, first served."""
    free_at = [0.0] * slots
    now, waits = 0.0, []
    for gap, work in zip(gaps_s, work_s, strict=True):
        now += gap
        begin = max(now, free_at[0])
        heapq.heapreplace(free_at, begin + work)
        waits.append(begin - now)
    return waits


def simulated_waits(
    arrivals_per_s: float, work_s: Sequence[float], slots: int, seed: int
) -> list[float]:
    """Waits of random arrivals, but for the first tenth, in which the line fills."""
    gaps_s = exponential(1 / arrivals_per_s, len(work_s), seed)
    return waits_at(slots, gaps_s, work_s)[len(work_s) // 10 :]


def simulated_sharing(
    arrivals_per_s: float, work_s: Sequence[float], speeds: Sequence[float], seed: int
) -> list[float]:
    """The same for slots that each work at ``speeds[n - 1]`` while n are taken."""
    draw = random.Random(seed)
    now, next_arrival = 0.0, draw.expovariate(arrivals_per_s)
    coming = iter(work_s)
    line: list[tuple[float, float]] = []  # arrival, work
    left: list[float] = []  # of each slot that is taken
    waits: list[float] = []
    served = 0
    while True:
        speed = speeds[len(left) - 1] if left else 0.0
        done_in = min(left) / speed if left else math.inf
        if now + done_in < next_arrival:
            now += done_in
            passed = min(left)
            left.remove(passed)
            left = [work - passed for work in left]
        else:
            left = [work - (next_arrival - now) * speed for work in left]
            now = next_arrival
            work = next(coming, None)
            if work is None:
                return waits[len(waits) // 10 :]
            line.append((now, work))
            next_arrival += draw.expovariate(arrivals_per_s)
        while served < len(line) and len(left) < len(speeds):
            came, work = line[served]
            served += 1
            waits.append(now - came)
            left.append(work)


def exponential(mean: float, count: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.expovariate(1 / mean) for _ in range(count)]


def assert_close(station: Station, waits: Sequence[float]) -> None:
    assert statistics.fmean(waits) == pytest.approx(station.mean_wait_s, rel=0.05)
    ordered = sorted(waits)
    for quantile in (0.9, 0.95):
        found = ordered[int(quantile * len(ordered))]
        assert found == pytest.approx(station.wait_quantile_s(quantile), rel=0.1)


@pytest.mark.parametrize(("slots", "utilisation"), [(1, 0.5), (2, 0.6), (8, 0.8), (64, 0.95)])
def test_a_simulation_of_random_work_agrees(slots: int, utilisation: float) -> None:
    holding_s, count = 10.0, 200_000
    arrivals_per_s = utilisation * slots / holding_s
    waits = simulated_waits(arrivals_per_s, exponential(holding_s, count, 1), slots, seed=2)
    assert_close(delay_system(arrivals_per_s, holding_s, slots), waits)
    with pytest.raises(AssertionError):
        assert_close(delay_system(0.9 * arrivals_per_s, holding_s, slots), waits)


@pytest.mark.parametrize(("slots", "utilisation"), [(2, 0.6), (8, 0.8), (32, 0.9)])
def test_pieces_of_one_length_wait_less_than_reckoned(slots: int, utilisation: float) -> None:
    holding_s = 10.0
    arrivals_per_s = utilisation * slots / holding_s
    waits = simulated_waits(arrivals_per_s, [holding_s] * 100_000, slots, seed=3)
    station = delay_system(arrivals_per_s, holding_s, slots)
    assert 0.4 < statistics.fmean(waits) / station.mean_wait_s < 0.75
    assert sorted(waits)[95_000 * 9 // 10] < station.wait_quantile_s(0.95)


def test_a_simulation_of_slots_that_slow_each_other_down_agrees() -> None:
    speeds = [1.0, 0.8, 0.7, 0.6]
    station = Station(0.15, [n * speed / 10.0 for n, speed in enumerate(speeds, 1)])
    waits = simulated_sharing(0.15, exponential(10.0, 200_000, 4), speeds, seed=5)
    assert_close(station, waits)
    # As if each kept the speed that it has alone, the wait would be reckoned far too short.
    assert delay_system(0.15, 10.0, 4).mean_wait_s < station.mean_wait_s / 5


# The roofline.


@pytest.mark.parametrize("model", WORKLOADS)
def test_the_costs_are_those_of_the_traced_graph(model: str) -> None:
    assert graph_costs.workload(model) == WORKLOADS[model]


@pytest.mark.parametrize("model", WORKLOADS)
def test_the_weights_by_hand(model: str) -> None:
    """Matrices of upstream's sizes, two bytes a number; the depth body's 12 times a frame."""
    sizes = ARCHITECTURES[model].model_class
    source = sizes.encoder_size.model_dims
    body, depth = sizes.decoder_temporal_size, sizes.decoder_depth_size
    width, narrow = body.model_dims, depth.model_dims
    assert body.num_heads * body.dim_per_head == width
    assert depth.num_heads * depth.dim_per_head == narrow
    # A layer: attention to the past, to the conditioning, and the feed-forward.
    layer = 4 * width**2 + (2 * width**2 + 2 * source * width) + 2 * width * body.hidden_dims
    style = 768 * source
    temporal, codes, _ = WORKLOADS[model].parts
    assert temporal.weight_bytes == pytest.approx(2 * (body.num_layers * layer + style), rel=1e-3)
    layer = 4 * narrow**2 + 2 * narrow * depth.hidden_dims
    one_code = width * narrow + depth.num_layers * layer + narrow * 1024
    assert codes.weight_bytes == 2 * 12 * one_code


@pytest.mark.parametrize("work", WORKLOADS.values(), ids=WORKLOADS)
def test_a_start_and_a_plan_choose_the_same_slots_for_the_same_times(work) -> None:
    """On an L4 the times are a straight line in the batch size, as a start takes them to be."""
    sizes = [b for b in BATCH_SIZES if 4 <= b <= roofline.streams_in_memory(GPUS["l4"], work)]
    frame_s = {b: roofline.frame_time(GPUS["l4"], work, b).total_s for b in (1, *sizes)}
    intercept_s, slope_s = loader.line_through(frame_s)
    assert frame_s == pytest.approx({b: intercept_s + slope_s * b for b in frame_s})
    assert loader.largest_in_real_time(frame_s, sizes) == roofline.default_slots(GPUS["l4"], work)


def test_a_frame_by_hand() -> None:
    """mrt2_small on an L4, 64 rows: the language model waits for memory, and so does the codec."""
    time_ = roofline.frame_time(GPUS["l4"], WORKLOADS["mrt2_small"], 64)
    assert time_.kernels_s == pytest.approx(1_306 * 5e-6)
    read_mb = 365.4 + 377.5 + 170.0
    moved_mb = 64 * (4.963 + 2 * 4.032 + 1.789 + 32.740 + 2 * 4.632)
    assert time_.weights_s == pytest.approx(read_mb / (0.7 * 300e3), rel=1e-3)
    assert time_.streams_s == pytest.approx(moved_mb / (0.7 * 300e3), rel=1e-3)
    assert time_.compute_s == 0
    fast = roofline.frame_time(GPUS["a100-40"], WORKLOADS["mrt2_small"], 256)
    assert fast.compute_s > 256 * 3.81e9 / (0.35 * 156e12) * 0.999


@pytest.mark.parametrize(("work", "gpu"), PAIRS, ids=PAIR_NAMES)
def test_limits_are_the_last_that_hold(work, gpu) -> None:
    times = [roofline.frame_time(gpu, work, n).total_s for n in range(1, 300)]
    assert times == sorted(times)
    most = roofline.streams_in_real_time(gpu, work)
    assert roofline.frame_time(gpu, work, most + 1).total_s > FRAME_S
    assert most == 0 or roofline.frame_time(gpu, work, most).total_s <= FRAME_S
    fitting = roofline.streams_in_memory(gpu, work)
    room = 0.8 * gpu.memory_bytes - work.parameter_bytes
    assert fitting == int(room // (3 * work.state_bytes))
    slots = roofline.default_slots(gpu, work)
    assert slots in BATCH_SIZES
    assert slots <= fitting
    assert slots == 4 or roofline.frame_time(gpu, work, slots).total_s <= 0.8 * FRAME_S


def test_a_batch_is_the_smallest_that_the_server_compiles() -> None:
    assert [roofline.batch_for(n, 24) for n in (1, 2, 4, 5, 9, 16, 17, 24)] == [
        1, 4, 4, 8, 16, 16, 24, 24,
    ]  # fmt: skip


# The fleet.

STEADY = planned.Server(frame_s=(0.016,) * 8, frames_per_step=5)
TARGET = Target(wait_s=5.0, quantile=0.95, utilisation=0.8)


@pytest.mark.parametrize(
    ("demand", "target"),
    [
        (Demand(2.0, 30.0), TARGET),
        (Demand(2.0, 30.0), Target(0.0, 0.99, 0.8)),
        (Demand(2.0, 30.0), Target(5.0, 0.95, 0.2)),
        (Demand(0.5, 120.0, live=20), TARGET),
        (Demand(0.0, 30.0, live=17), TARGET),
        (Demand(0.001, 1.0), TARGET),
    ],
)
def test_a_fleet_is_enough_and_one_server_fewer_is_not(demand: Demand, target: Target) -> None:
    fleet = smallest_fleet(STEADY, demand, target)
    assert fleet.first_violation(target) is Constraint.NONE
    if fleet.servers == 1:
        assert binding_constraint(fleet, target) is Constraint.NONE
    for fewer in range(1, fleet.servers):
        assert Fleet(fewer, STEADY, demand).first_violation(target) is not Constraint.NONE


def test_what_binds_is_named() -> None:
    def bound(demand: Demand, target: Target = TARGET) -> Constraint:
        return binding_constraint(smallest_fleet(STEADY, demand, target), target)

    assert bound(Demand(2.0, 30.0), Target(60.0, 0.95, 0.8)) is Constraint.UTILISATION
    assert bound(Demand(2.0, 30.0), Target(0.0, 0.999, 0.8)) is Constraint.WAIT
    assert bound(Demand(0.0, 30.0, live=17)) is Constraint.LIVE
    assert bound(Demand(0.01, 30.0)) is Constraint.NONE


def test_a_small_fleet_by_hand() -> None:
    fleet = smallest_fleet(STEADY, Demand(0.3, 30.0), TARGET)
    # 750 frames and a silent one are 151 steps of 5; with one more, 760 frames of 16 ms.
    assert fleet.offered_erlangs == pytest.approx(0.3 * 760 * 0.016)
    assert fleet.servers == 1
    assert fleet.station.wait_probability == pytest.approx(
        delay_system(0.3, 760 * 0.016, 8).wait_probability
    )


def test_live_sessions_take_slots_and_slow_the_others_down() -> None:
    slowing = planned.Server(frame_s=(0.01, 0.01, 0.02, 0.02), frames_per_step=1)
    station = Fleet(1, slowing, Demand(0.1, 1.0, live=2)).station
    assert station.completions_per_s == pytest.approx([1 / (27 * 0.02), 2 / (27 * 0.02)])


def test_what_no_fleet_does_is_refused() -> None:
    with pytest.raises(Unplannable, match="nothing is asked for"):
        smallest_fleet(STEADY, Demand(0.0, 30.0), TARGET)
    slow = planned.Server(frame_s=(0.041,) * 4, frames_per_step=5)
    with pytest.raises(Unplannable, match=r"40 ms or less.* 41.0 ms"):
        smallest_fleet(slow, Demand(0.0, 30.0, live=1), TARGET)
    with pytest.raises(Unplannable, match="not even 10,000 servers"):
        smallest_fleet(STEADY, Demand(10_000.0, 3_600.0), TARGET)


class Noting(FakeModel):
    """Notes how many frames were made before each stream that gets a slot."""

    def insert(self, state: FakeState, row: int, seed: int) -> FakeState:
        self.made_before = [
            *getattr(self, "made_before", []),
            sum(frames for _, frames in self.steps),
        ]
        return super().insert(state, row, seed)


@pytest.mark.parametrize("frames", [1, 4, 5, 23, 24, 25])
async def test_the_engine_holds_a_slot_for_as_long_as_planned(frames: int) -> None:
    """Beside a stream that goes on, the other slot serves pieces one after the other."""
    with rig(Noting(batch_sizes=(2,)), started=False) as made:
        made.submit(10_000, client="goes on")
        pieces = [made.submit(frames) for _ in range(6)]
        made.engine.start()
        await until(lambda: all(stream.phase is Phase.FINISHED for stream in pieces))
        _, *began = made.model.made_before
    held = planned.Server((1.0, 1.0), frames_per_step=5).holding_frames(frames * FRAME_S)
    assert [after - before for before, after in itertools.pairwise(began)] == [held] * 5


# The command and its page.


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


SMALL = ("--gpu", "l4", "--model", "mrt2_small")
MEASURED = ("--measured-frame-ms", "16", "--slots", "8")


def test_the_page_shows_what_the_command_prints() -> None:
    found = re.search(
        r"^```sh\nmagenta-bento (plan .*)\n```\n\n```text\n(.*?)^```$",
        PAGE.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert found is not None
    shown = CliRunner().invoke(main, shlex.split(found[1]))
    assert shown.exit_code == 0
    assert shown.output == found[2]


def test_the_largest_demand_is_answered_at_once() -> None:
    """Closed forms and a search by halves: work grows far less than the demand."""
    h200 = ("--gpu", "h200", "--model", "mrt2_small")
    small = work_of(lambda: run(*h200, "--arrivals", "1/s", "--live", "9"))
    assert work_of(lambda: run(*h200, "--arrivals", "10000/s", "--live", "99999")) < 10 * small


def work_of(command: Callable[[], Result]) -> int:
    """How many calls of Python's functions a command that succeeds makes."""
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    command()  # what is imported or computed once is not counted
    sys.setprofile(count)
    try:
        answer = command()
    finally:
        sys.setprofile(None)
    assert answer.exit_code == 0
    return calls


def test_other_commands_do_not_wait_for_it() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import sys, magenta_bento.cli; print(*sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name for name in shown.stdout.split() if name.startswith("magenta_bento.planning")}
    assert loaded == {"magenta_bento.planning", "magenta_bento.planning.options"}


def test_the_help_names_every_gpu() -> None:
    assert ", ".join(GPUS).replace(", h200", " or h200") in run("--help").output


def test_json_tells_the_same_for_machines() -> None:
    answer = json.loads(run(*MEASURED, "--arrivals", "18/min", "--json").output)
    fleet = smallest_fleet(STEADY, Demand(0.3, 30.0), TARGET)
    assert answer["servers"] == fleet.servers
    assert answer["computed"] is False
    assert answer["queue"]["offered_erlangs"] == pytest.approx(fleet.offered_erlangs)
    assert answer["queue"]["mean_wait_s"] == pytest.approx(fleet.station.mean_wait_s)
    assert answer["price"] is None
    assert "One server is enough." in answer["binds"]
    fewer = {change["change"]: change["servers"] for change in answer["changes"]}
    assert set(fewer) == {"FRAMES_PER_STEP=1", "FRAMES_PER_STEP=25", "twice the wait",
                          "90% busy allowed"}  # fmt: skip


def test_a_change_that_can_not_be_is_told_with_its_reason() -> None:
    answer = json.loads(run(*SMALL, "--live", "20", "--json").output)
    assert answer["queue"] is None
    changes = {change["change"]: change for change in answer["changes"]}
    sizes = {name for name in changes if name.startswith("MAX_STREAMS=")}
    assert sizes == {f"MAX_STREAMS={slots}" for slots in (4, 8, 16, 32, 128, 256)}
    assert changes["mrt2_base"]["servers"] is None
    assert "40 ms" in changes["mrt2_base"]["why"]
    assert changes["H200"] == {"change": "H200", "servers": 1, "why": None}


def test_a_price_is_told_only_if_given() -> None:
    assert "price" not in run(*MEASURED, "--arrivals", "2/s").output
    arguments = (*MEASURED, "--arrivals", "2/s", "--price-per-hour", "1.5", "--json")
    answer = json.loads(run(*arguments).output)
    price = answer["price"]
    assert price["fleet_per_hour"] == pytest.approx(1.5 * answer["servers"])
    assert price["fleet_per_month"] == pytest.approx(730 * price["fleet_per_hour"])
    assert price["per_hour_of_music"] == pytest.approx(price["fleet_per_hour"] / (2 * 30))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--gpu", "l40"), "'l40' is none of l4, a100-40, a100-80, h200"),
        (("--arrivals", "2"), "'2' is not a rate: write 2/s, 120/min or 7200/h"),
        (("--arrivals", "-2/s"), "not a rate"),
        (("--arrivals", "nan/s"), "not a rate"),
        (("--arrivals", "10001/s"), "above 10000/s"),
        (("--arrivals", "1/s", "--seconds", "0"), "range 0<x<=3600"),
        (("--arrivals", "1/s", "--seconds", "3601"), "range 0<x<=3600"),
        (("--arrivals", "1/s", "--wait", "nan"), "not a finite number"),
        (("--arrivals", "1/s", "--wait", "-1"), "range 0<=x<=3600"),
        (("--arrivals", "1/s", "--quantile", "1"), "range 0<x<1"),
        (("--arrivals", "1/s", "--utilisation", "1"), "range 0<x<1"),
        (("--arrivals", "1/s", "--live", "-1"), "range 0<=x<=100000"),
        (("--arrivals", "1/s", "--slots", "0"), "range 1<=x<=1024"),
        (("--arrivals", "1/s", "--price-per-hour", "inf"), "range 0<=x<=1000000"),
        (("--arrivals", "1/s", *MEASURED), "takes the place of --gpu"),
    ],
)
def test_bad_input_is_refused_with_its_bounds(arguments: tuple[str, ...], told: str) -> None:
    refused = run(*SMALL, *arguments)
    assert refused.exit_code == 2
    assert told in refused.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing is asked for"),
        (("--arrivals", "1/s", "--slots", "716"), "at most 715 do"),
        (("--arrivals", "10000/s", "--seconds", "3600"), "not even 10,000 servers"),
        (("--live", "1", "--slots", "128"), "45.5 ms"),
    ],
)
def test_what_can_not_be_done_is_told(arguments: tuple[str, ...], told: str) -> None:
    refused = run(*SMALL, *arguments)
    assert refused.exit_code == 1
    assert told in refused.output


@pytest.mark.parametrize(
    "arguments", [(), ("--gpu", "l4"), ("--model", "mrt2_small"), ("--measured-frame-ms", "16")]
)
def test_half_a_device_is_refused(arguments: tuple[str, ...]) -> None:
    refused = run(*arguments, "--arrivals", "1/s")
    assert refused.exit_code == 2
    assert "--slots" in refused.output


def told_rows(head: str) -> list[list[str]]:
    """Cells of the page's table that begins so."""
    table = re.search(rf"^{re.escape(head)}.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text(), re.M)
    assert table is not None, head
    lines = table[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_the_costs() -> None:
    assert told_rows("| Model | Part |") == [
        [
            work.model,
            part.name,
            f"{part.weight_bytes / 1e6:,.0f}",
            f"{part.stream_bytes / 1e6:.1f}",
            f"{part.flops / 1e9:.2f}",
            part.precision.value,
        ]
        for work in WORKLOADS.values()
        for part in work.parts
    ]
    assert told_rows("| Model | Parameters") == [
        [
            work.model,
            f"{work.parameter_bytes / 1e6:,.0f}",
            f"{work.state_bytes / 1e6:.1f}",
            f"{work.kernels:,}",
        ]
        for work in WORKLOADS.values()
    ]


def test_the_page_has_the_data_sheets() -> None:
    assert told_rows("| GPU | `--gpu`") == [
        [
            f"[{gpu.title}]({gpu.data_sheet})",
            gpu.name,
            f"{gpu.memory_bytes / 1e9:g}",
            f"{gpu.bytes_per_s / 1e9:,g}",
            *(f"{rate / 1e12:g}" for rate in gpu.flops_per_s.values()),
        ]
        for gpu in GPUS.values()
    ]


def test_the_page_has_the_streams() -> None:
    def row(work, gpu) -> list[str]:
        most, slots = roofline.streams_in_real_time(gpu, work), roofline.default_slots(gpu, work)
        ceiling = roofline.CEILING
        return [
            work.model,
            gpu.title,
            f"{roofline.frame_time(gpu, work, 1, ceiling).total_s * 1e3:.2f}",
            f"{roofline.frame_time(gpu, work, 1).total_s * 1e3:.1f}",
            f"{roofline.streams_in_real_time(gpu, work, ceiling):,}",
            f"{most:,}",
            roofline.frame_time(gpu, work, max(1, most)).bottleneck,
            f"{roofline.streams_in_memory(gpu, work):,}",
            f"{slots}",
            f"{roofline.frame_time(gpu, work, slots).total_s * 1e3:.1f}",
        ]

    assert told_rows("| Model | GPU |") == [row(work, gpu) for work, gpu in PAIRS]


L4, BASE = GPUS["l4"], WORKLOADS["mrt2_base"]


def test_the_page_has_what_an_l4_needs_for_base() -> None:
    rows = []
    for share, kernel_us in itertools.product((0.9, 0.8, 0.7), (0, 2, 5)):
        given = replace(roofline.EXPECTED, bandwidth=share, kernel_s=kernel_us * 1e-6)
        one_s = roofline.frame_time(L4, BASE, 1, given).total_s
        most = roofline.streams_in_real_time(L4, BASE, given)
        rows.append([f"{share:.0%}", f"{kernel_us}", f"{one_s * 1e3:.1f}", f"{most}"])
    assert told_rows("| Share of the bandwidth |") == rows


def test_the_page_tells_what_base_reads() -> None:
    temporal, depth, codec = (part.weight_bytes / 1e6 for part in BASE.parts)
    bytes_read = temporal + depth + codec
    text = PAGE.read_text()
    assert (
        f"Each frame reads {temporal:,.0f} MB for the temporal body, 12 times {depth / 12:.0f} MB"
        f" for the codes and {codec:.0f} MB for the codec: {bytes_read:,.0f} MB"
    ) in text
    assert f"takes {bytes_read * 1e6 / L4.bytes_per_s * 1e3:.0f} of the 40 ms before" in text
    assert f"the {BASE.kernels:,} kernels" in text
    small = [part.weight_bytes / 1e6 for part in WORKLOADS["mrt2_small"].parts]
    assert f"mrt2_base reads {depth / 12:.0f} MB of the depth body" in text
    assert f"mrt2_small reads {small[1] / 12:.0f} MB" in text
    assert f"by up to {small[1] * 11 / 12:.0f} of the {sum(small):.0f} MB" in text
    m3_max_mb_per_ms = 400
    assert (
        f"weights of small in {sum(small) / m3_max_mb_per_ms:.1f} ms"
        f" and those of base in {bytes_read / m3_max_mb_per_ms:.1f}."
    ) in text


def test_the_page_tells_what_more_slots_do_for_base() -> None:
    def servers(*more: str) -> int:
        asked = ("--gpu", "l4", "--model", "mrt2_base", "--arrivals", "2/s", *more, "--json")
        return int(json.loads(run(*asked).output)["servers"])

    times = [roofline.frame_time(L4, BASE, slots).total_s for slots in (4, 64)]
    assert (
        f"With 4 slots `magenta-bento plan --gpu l4 --model mrt2_base --arrivals 2/s` asks for"
        f" {servers()} servers, with `--slots 64` for {servers('--slots', '64')}: a frame of 64"
        f" streams takes {times[1] / times[0]:.1f} times as long as one of 4."
    ) in PAGE.read_text()


def test_the_page_explains_the_cpus_figures() -> None:
    """The line through one and four streams, from docs/performance.md."""
    measured = (REPOSITORY / "docs" / "performance.md").read_text().split("## mrt2_small")[1]
    one_ms, four_ms = (
        float(ms) for ms in re.findall(r"^\| engine \| [14] \|.*\| (\d+) /", measured, re.M)[:2]
    )
    each_ms = (four_ms - one_ms) / 3
    temporal, depth, codec = WORKLOADS["mrt2_small"].parts
    read_mb = (2 * (temporal.weight_bytes + depth.weight_bytes) + codec.weight_bytes) / 1e6
    gflop = (temporal.flops + depth.flops + codec.flops) / 1e9
    shared_ms = one_ms - each_ms
    assert (
        f"one stream {one_ms:g} ms a frame, four {four_ms:g} ms."
        f" The same count explains them: a straight line through the two has {shared_ms:g} ms"
        f" that all streams share, in which the {read_mb:,.0f} MB of weights (float32 here) are"
        f" read at {read_mb / shared_ms:.0f} GB/s, and {each_ms:g} ms for each stream, in which"
        f" {gflop:.2f} GFLOP are computed at {gflop / each_ms * 1e3:.0f} GFLOP/s."
    ) in PAGE.read_text()


# A real server.

SLOTS = 2
OFFERED = 0.6  # of the measured speed
PIECES = 80
MEAN_FRAMES = 30
# So few random arrivals wait half to one and a half times as long as endlessly many would. This
# draw is one whose simulation is near the expectation, so that the server is tested, not luck.
SEED = 35
FACTOR = 1.4  # between the waits measured and those simulated
HOLD_FACTOR = 1.6  # between a typical piece's seconds in its slot and those reckoned


@dataclass(frozen=True)
class Draw:
    """Random arrivals of pieces of random length; time is in frames of a full batch.

    Attributes:
      frames: Length of each piece.
      gaps: Before each of them.
    """

    frames: Sequence[int]
    gaps: Sequence[float]

    @classmethod
    def of(cls, seed: int) -> Draw:
        draw = random.Random(seed)
        frames = [max(1, round(draw.expovariate(1 / MEAN_FRAMES))) for _ in range(PIECES)]
        mean_gap = statistics.fmean(map(holding_frames, frames)) / (OFFERED * SLOTS)
        return cls(frames, [draw.expovariate(1 / mean_gap) for _ in range(PIECES)])

    @property
    def held(self) -> list[int]:
        """For how many frames each piece keeps its slot."""
        return list(map(holding_frames, self.frames))


def holding_frames(frames: int) -> int:
    return planned.Server((1.0,), frames_per_step=1).holding_frames(frames * FRAME_S)


@dataclass(frozen=True)
class Visit:
    """What became of one piece, all in seconds.

    Attributes:
      came_s: When it was asked for, since the first.
      waited_s: For a slot.
      held_s: In the slot.
      reckoned_s: In the slot, at the speed that was measured before.
    """

    came_s: float
    waited_s: float
    held_s: float
    reckoned_s: float


def make_piece(server: Server, frames: int, name: str) -> None:
    answer = requests.post(
        f"{server.url}/generate/text",
        data={
            "prompt": "funk",
            "duration": f"{frames * FRAME_S:.2f}",
            "format": "wav",
            "seed": "1",
        },
        headers={"X-Request-ID": name},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text


def frame_seconds(server: Server) -> float:
    """With all slots taken by pieces like those that will be offered."""
    with ThreadPoolExecutor(SLOTS) as clients:
        names = [f"before-{number}" for number in range(10 * SLOTS)]
        list(clients.map(lambda name: make_piece(server, MEAN_FRAMES, name), names))
    return mean_of(server, "step_frame_seconds")


def mean_of(server: Server, histogram: str) -> float:
    """The mean of all that one of the server's histograms has seen."""
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    value: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            value[sample.name] = value.get(sample.name, 0.0) + sample.value
    name = f"magenta_bento_{histogram}"
    return value[f"{name}_sum"] / value[f"{name}_count"]


def offer(server: Server, draw: Draw, frame_s: float) -> list[Visit]:
    """Has a draw made, at the load it is meant to be if a frame takes so long."""
    came_s: list[float] = []
    with ThreadPoolExecutor(PIECES) as clients:
        made = []
        started = due = time.monotonic()
        for gap, frames in zip(draw.gaps, draw.frames, strict=True):
            due += gap * frame_s
            time.sleep(max(0.0, due - time.monotonic()))
            name = f"piece-{len(came_s)}"
            came_s.append(time.monotonic() - started)
            made.append(clients.submit(make_piece, server, frames, name))
        for piece in made:
            piece.result()
    told = access_lines(server, "piece-", PIECES)
    return [
        Visit(came, told[f"piece-{number}"]["queue_seconds"], held_s, held * frame_s)
        for number, (came, held) in enumerate(zip(came_s, draw.held, strict=True))
        # The slot falls free one frame after the last one has been made: see Server.holding_frames.
        for held_s in [told[f"piece-{number}"]["generation_seconds"] + frame_s]
    ]


def access_lines(server: Server, prefix: str, count: int) -> dict[str, dict[str, float]]:
    """The access lines of requests whose name begins so, once there are so many."""
    deadline = time.monotonic() + 30
    while True:
        lines = (json.loads(line) for line in server.lines() if line.startswith("{"))
        told = {
            line["request_id"]: line
            for line in lines
            if "queue_seconds" in line and line["request_id"].startswith(prefix)
        }
        if len(told) == count:
            return told
        assert time.monotonic() < deadline, f"{len(told)} access lines of {count}"
        time.sleep(0.05)


def test_the_draw_is_no_lucky_one() -> None:
    for utilisation in (0.45, OFFERED, 0.75):
        draw = Draw.of(SEED)
        gaps = [gap * OFFERED / utilisation for gap in draw.gaps]
        station = delay_system(PIECES / sum(gaps), statistics.fmean(draw.held), SLOTS)
        waits = waits_at(SLOTS, gaps, draw.held)
        assert statistics.fmean(waits) == pytest.approx(station.mean_wait_s, rel=0.1)


@pytest.mark.long
def test_a_servers_waits_are_those_predicted(tmp_path: Path) -> None:
    """The draw waits as Erlang says (above), and the server makes it wait as the draw does.

    What each piece took is measured, and the simulation takes it from there: so it does not
    matter that a shared machine changes its speed, or stands still for a moment.
    """
    # One batch size: a frame then takes as long with one slot taken as with two.
    settings = {"MAX_STREAMS": f"{SLOTS}", "DETERMINISTIC": "true", "FRAMES_PER_STEP": "1"}
    with serving(tmp_path, MAGENTA_MODEL="demo", LOG_FORMAT="json", **settings) as server:
        visits = offer(server, Draw.of(SEED), frame_seconds(server))

    held_s = [visit.held_s for visit in visits]
    slower = statistics.median(visit.held_s / visit.reckoned_s for visit in visits)
    assert 1 / HOLD_FACTOR < slower < HOLD_FACTOR

    came_s = [visit.came_s for visit in visits]
    gaps_s = [later - earlier for earlier, later in itertools.pairwise([0.0, *came_s])]
    measured_s = statistics.fmean(visit.waited_s for visit in visits)

    def ratio(slots: int = SLOTS) -> float:
        return measured_s / statistics.fmean(waits_at(slots, gaps_s, held_s))

    assert 1 / FACTOR < ratio() < FACTOR, visits
    for wrong in (ratio(slots=1), ratio(slots=3)):
        assert not 1 / FACTOR < wrong < FACTOR, visits
