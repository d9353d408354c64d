"""How many streams a start settles on, and what it says about files it can't use."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fake_model import FakeModel, FakeState
from serving import COMPILE_CACHE

from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.model import loader
from magenta_bento.model.loader import LoadReport, largest_in_real_time, line_through, load_model
from magenta_bento.weights.catalog import locate

FILES = locate("demo", Settings())


class SmallDevice(FakeModel):
    """A model on a device with memory for so many streams, that runs out where it is told."""

    parameter_bytes = 1_000
    state_bytes = 10

    def __init__(self, streams: int = 10_000, where: str = "step") -> None:
        super().__init__(batch_sizes=[])
        self.streams = streams
        self.where = where
        self.compiled: list[int] = []

    def compile(self, batch_sizes: Sequence[int]) -> None:
        for size in batch_sizes:
            self._fit(size, "compile")
        self.compiled += [size for size in batch_sizes if size not in self.batch_sizes]
        self.batch_sizes = sorted({*self.batch_sizes, *batch_sizes})

    def forget(self, batch_sizes: Sequence[int]) -> None:
        self.batch_sizes = [size for size in self.batch_sizes if size not in batch_sizes]

    def init_state(self, batch_size: int) -> FakeState:
        if batch_size not in self.batch_sizes:
            raise KeyError(batch_size)
        self._fit(batch_size, "step")
        return super().init_state(batch_size)

    def _fit(self, size: int, where: str) -> None:
        if where == self.where and size > self.streams:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")


@pytest.fixture(name="lines")
def _lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """What was logged so far; other tests may have cut the package's logger off the root."""
    logger = logging.getLogger("magenta_bento")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "magenta_bento")
    yield lambda: caplog.text
    logger.removeHandler(caplog.handler)


def load(model: FakeModel, monkeypatch: pytest.MonkeyPatch, **settings: object) -> LoadReport:
    monkeypatch.setattr(loader, "JaxModel", lambda *_, **__: model)
    _, report = load_model(Settings(compile_cache=COMPILE_CACHE, **settings), FILES)
    return report


def test_a_line_through_two_batch_sizes() -> None:
    assert line_through({1: 0.010, 4: 0.016}) == pytest.approx((0.008, 0.002))
    assert line_through({4: 0.016, 1: 0.010, 8: 9.0}) == pytest.approx((0.008, 0.002))
    # Noise can make the larger batch the faster one: then it costs nothing more.
    assert line_through({1: 0.016, 4: 0.010}) == pytest.approx((0.016, 0.0))


@pytest.mark.parametrize(
    ("slope_s", "largest"), [(0.0, 64), (0.0004, 32), (0.001, 16), (0.003, 4), (0.04, 4)]
)
def test_the_largest_batch_that_should_keep_up(slope_s: float, largest: int) -> None:
    frame_s = {1: 0.01 + slope_s, 4: 0.01 + 4 * slope_s}
    assert largest_in_real_time(frame_s, [4, 8, 16, 32, 64]) == largest


@pytest.mark.parametrize(
    ("max_streams", "deterministic", "sizes"),
    [
        (1, False, [1]),
        (4, False, [1, 4]),
        (6, False, [1, 4, 6]),
        (20, False, [1, 4, 8, 16, 20]),
        (1, True, [1]),
        (6, True, [6]),
        (0, False, [1, 4, 8]),  # the fake is fast enough for all that a CPU is given
        (0, True, [8]),
    ],
)
def test_the_batch_sizes_that_settings_ask_for(
    max_streams: int,
    deterministic: bool,
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    lines: Callable[[], str],
) -> None:
    model = SmallDevice()
    report = load(model, monkeypatch, max_streams=max_streams, deterministic=deterministic)
    assert model.batch_sizes == sizes
    assert set(sizes) <= report.frame_s.keys()
    assert report.phases_s.keys() == {"parameters", "compile"}
    if max_streams and deterministic:
        assert model.compiled == sizes  # no time is lost on sizes that are not served
    assert "loaded demo on cpu" in lines()
    assert "does not fit" not in lines()


@pytest.mark.parametrize("where", ["compile", "step"])
@pytest.mark.parametrize(
    ("fits", "max_streams", "deterministic", "sizes"),
    [
        (9, 20, False, [1, 4, 8]),
        (3, 20, False, [1]),
        (9, 20, True, [8]),
        (3, 20, True, [1]),
        (3, 0, False, [1]),
        (3, 0, True, [1]),
        (4, 0, False, [1, 4]),
    ],
)
def test_when_memory_ends_fewer_streams_are_served_and_it_is_said(
    fits: int,
    max_streams: int,
    deterministic: bool,
    sizes: list[int],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    lines: Callable[[], str],
) -> None:
    model = SmallDevice(fits, where)
    load(model, monkeypatch, max_streams=max_streams, deterministic=deterministic)
    assert model.batch_sizes == sizes
    assert f"does not fit into device memory: serving up to {sizes[-1]}\n" in lines()
    state = model.init_state(sizes[-1])
    model.insert(state, sizes[-1] - 1, seed=1)


@pytest.mark.parametrize("where", ["compile", "step"])
def test_a_device_too_small_for_one_stream_is_an_error(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        load(SmallDevice(0, where), monkeypatch, max_streams=20)


def test_another_error_is_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SmallDevice()
    model.fail("step")
    with pytest.raises(RuntimeError, match="injected into step"):
        load(model, monkeypatch, max_streams=20)


def damaged(kind: str) -> bytes | dict[str, np.ndarray]:
    whole = FILES.checkpoint.read_bytes()
    if kind == "cut short":
        return whole[:-1_000]
    if kind == "another file":
        return b"hello, world. " * 1_000
    flat = safetensors.numpy.load(whole)
    head = "params/depthformer/decoder/depth_body/to_logits/kernel"
    projection = next(name for name in flat if name.endswith("output_projection/kernel"))
    if kind == "a parameter missing":
        del flat[head]
    elif kind == "another shape":
        flat[projection] = np.concatenate([flat[projection]] * 2)
    elif kind == "another rank":
        flat[projection] = flat[projection].reshape(-1)
    elif kind == "a short head":
        flat[head] = flat[head][:, :500].copy()
    elif kind == "a strange name":
        flat["foo"] = np.zeros(1, np.float32)
    return flat


@pytest.mark.parametrize(
    "kind",
    [
        "cut short",
        "another file",
        "empty",
        "absent",
        "a parameter missing",
        "another shape",
        "another rank",
        "a short head",
        "a strange name",
    ],
)
def test_a_damaged_checkpoint_names_the_command_that_tells_more(kind: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "demo.safetensors"
    if kind == "empty":
        checkpoint.touch()
    elif kind != "absent":
        made = damaged(kind)
        if isinstance(made, bytes):
            checkpoint.write_bytes(made)
        else:
            safetensors.numpy.save_file(made, checkpoint)
    settings = Settings(max_streams=1, compile_cache=COMPILE_CACHE)
    with pytest.raises(WeightsError, match="`magenta-bento models verify demo`"):
        load_model(settings, dataclasses.replace(FILES, checkpoint=checkpoint))
