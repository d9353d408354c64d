"""From files to a model that is ready to step.

1. Set JAX up: the compilation cache, and memory that grows instead of being taken whole.
2. Load the parameters and compile the two smallest batch sizes.
3. Time one step of each: a straight line through the two tells how many streams the device
   can keep above real time, and device memory how many it can hold.
4. Compile the batch sizes up to there.

Invariant: a model that is returned has run every batch size once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from safetensors import SafetensorError

from magenta_bento.capacity import (
    BATCH_SIZES,
    FEWEST_SLOTS,
    TIMED_SIZES,
    compiled_sizes,
    fits,
    keeps_up,
)
from magenta_bento.conditioning import SIZE
from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.model.protocol import Model, StepInputs
from magenta_bento.weights.catalog import ModelFiles

# JAX takes three quarters of a GPU at its first use unless told otherwise, and users of
# upstream report both the noise and the failures of that. Only defaults: an operator's own win.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # after the two settings that it reads when it is imported
import jax.numpy as jnp
from flax.errors import FlaxError

from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.model.jax_model import JaxModel

log = logging.getLogger("magenta_bento")

LARGEST_ON_CPU = 8  # a further batch size costs seconds of compilation and wins little there
PROBE_STEPS = 3
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # XLA's word for it

# What a damaged checkpoint raises as it is read, and as the model is traced with it.
UNREADABLE = (OSError, LookupError, TypeError, ValueError, SafetensorError)
OTHER_NAMES_OR_SHAPES = (FlaxError,)


@dataclass
class LoadReport:
    """What a start did.

    Attributes:
      model: Its name.
      device: For people, as "cpu" or "NVIDIA L4".
      dtype: What the language model computes in.
      phases_s: Seconds of each phase of the start.
      frame_s: Seconds of a frame that were measured, by batch size.
    """

    model: str
    device: str
    dtype: str
    phases_s: dict[str, float] = field(default_factory=dict)
    frame_s: dict[int, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.phases_s[name] = time.perf_counter() - started


def load_model(settings: Settings, files: ModelFiles) -> tuple[JaxModel, LoadReport]:
    """Loads and compiles what ``files`` holds, as the module says.

    Raises:
      WeightsError: The checkpoint can't be read, or is not of its architecture.
    """
    _set_up(settings)
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    dtype = settings.compute_dtype
    if dtype == "auto":
        dtype = "float32" if on_cpu else "bfloat16"
    report = LoadReport(files.name, device.device_kind, dtype)

    with report.phase("parameters"), _damage_named(files, UNREADABLE):
        model = JaxModel(
            ARCHITECTURES[files.name],
            files,
            max_frames=settings.frames_per_step,
            compute_dtype=jnp.dtype(dtype),
            # The demo's codec is so small that the plain convolution is the faster one.
            exact_codec=ARCHITECTURES[files.name].is_demo,
        )

    with report.phase("compile"), _damage_named(files, OTHER_NAMES_OR_SHAPES):
        if settings.max_streams:
            chosen = settings.max_streams
        else:
            _try(model, TIMED_SIZES, report)
            chosen = _best_size(model, report, on_cpu)
        _try(model, compiled_sizes(chosen), report, largest_only=settings.deterministic)
        if settings.deterministic:
            model.forget(model.batch_sizes[:-1])
    log.info(
        "loaded %s on %s: %.0f MB of parameters, %.1f MB a stream, %s, batch sizes %s (%s)",
        report.model,
        report.device,
        model.parameter_bytes / 1e6,
        model.state_bytes / 1e6,
        report.dtype,
        ", ".join(f"{b} ({report.frame_s[b] * 1e3:.1f} ms a frame)" for b in model.batch_sizes),
        ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.phases_s.items()),
    )
    return model, report


def device_memory() -> Mapping[str, int]:
    """Bytes "limit" and "in_use" of the device, where it reports them."""
    stats = jax.devices()[0].memory_stats() or {}
    return {
        kind: int(stats[key])
        for kind, key in (("limit", "bytes_limit"), ("in_use", "bytes_in_use"))
        if key in stats
    }


def line_through(frame_s: Mapping[int, float]) -> tuple[float, float]:
    """Intercept and slope, seconds, of the straight line through two timed batch sizes."""
    (small, t_small), (large, t_large) = sorted(frame_s.items())[:2]
    slope = max(0.0, (t_large - t_small) / (large - small))
    return t_small - slope * small, slope


def largest_in_real_time(frame_s: Mapping[int, float], candidates: Sequence[int]) -> int:
    """The largest batch size that should keep up with playback; the smallest if none does."""
    intercept, slope = line_through(frame_s)
    good = [b for b in candidates if keeps_up(intercept + slope * b)]
    return max(good, default=min(candidates))


def _best_size(model: JaxModel, report: LoadReport, on_cpu: bool) -> int:
    most = LARGEST_ON_CPU if on_cpu else BATCH_SIZES[-1]
    possible = [
        size
        for size in BATCH_SIZES
        if FEWEST_SLOTS <= size <= most and _expected_to_fit(model, size)
    ]
    if not possible or len(report.frame_s) < len(TIMED_SIZES):
        return max(model.batch_sizes)
    return largest_in_real_time(report.frame_s, possible)


def _expected_to_fit(model: JaxModel, batch_size: int) -> bool:
    limit = device_memory().get("limit")
    if limit is None:
        return True
    return fits(batch_size, model.parameter_bytes, model.state_bytes, limit)


def _try(
    model: JaxModel,
    batch_sizes: Sequence[int],
    report: LoadReport,
    *,
    largest_only: bool = False,
) -> None:
    """Compiles and runs batch sizes; when memory ends, goes on with the smaller ones.

    Args:
      model: What is compiled.
      batch_sizes: Ascending.
      report: Where the times go.
      largest_only: Leave the others alone as long as the largest one fits.

    Raises:
      Exception: Not even the smallest one fits, or something else is wrong.
    """
    left = list(batch_sizes)
    while True:
        tried = left[-1:] if largest_only else left
        size = tried[-1]  # what is at fault when compiling needs too much
        try:
            model.compile(tried)
            for size in tried:
                if size not in report.frame_s:
                    report.frame_s[size] = time_a_frame(model, size)
            return
        except Exception as error:
            left = [b for b in left if b < size]
            if OUT_OF_MEMORY not in str(error) or not left:
                raise
        log.warning(
            "a batch of %d streams does not fit into device memory: serving up to %d",
            size,
            left[-1],
        )
        model.forget([b for b in model.batch_sizes if b >= size])


def time_a_frame(model: Model, batch_size: int) -> float:
    """Seconds of one frame of a full batch, the best of a few steps."""
    state = model.init_state(batch_size)
    state = model.insert(state, batch_size - 1, seed=0)
    inputs = StepInputs(
        tokens=np.full((batch_size, model.max_frames, SIZE), 7, np.int32),
        temperature=np.ones((batch_size, model.max_frames), np.float32),
        top_k=np.full((batch_size, model.max_frames), 40, np.int32),
        active=np.ones(batch_size, np.bool_),
    )
    best = float("inf")
    for _ in range(PROBE_STEPS):
        started = time.perf_counter()
        state, audio = model.step(state, inputs)
        audio.fetch()
        best = min(best, (time.perf_counter() - started) / model.max_frames)
    return best


@contextmanager
def _damage_named(files: ModelFiles, signs: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns what a damaged checkpoint raises into what an operator can act on."""
    try:
        yield
    except signs as error:
        raise WeightsError(
            f"the checkpoint of {files.name} can't be loaded: {error};"
            f" `magenta-bento models verify {files.name}` lists what is wrong"
        ) from error


def _set_up(settings: Settings) -> None:
    try:
        settings.compile_cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no COMPILE_CACHE, so that each start compiles anew: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(settings.compile_cache))
    # Cache everything: a start runs dozens of programs that each compile in under a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
