"""Upstream's own ``MagentaRT2System``, for any of our architectures and compute dtypes.

Parity tests and benchmarks compare with the stock system, which knows only its two sizes,
computes in bfloat16 only and reads one global model home.

Invariant: whatever is replaced in upstream's modules to construct it is put back, also when
construction fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
from magenta_rt import paths
from magenta_rt.jax import model, spectrostream, system

from magenta_bento.model.architecture import ARCHITECTURES, Architecture, DType


def stock_system(
    name: str, home: Path, compute_dtype: DType = jnp.bfloat16, **kwargs: Any
) -> system.MagentaRT2System:
    """Constructs and compiles the stock system.

    Args:
      name: A key of ``ARCHITECTURES``.
      home: The folder that holds ``checkpoints`` and ``resources/musiccoca``; upstream calls
        it ``$MAGENTA_HOME/magenta-rt-v2``.
      compute_dtype: What the language model computes in; the codec computes in float32.
      **kwargs: Passed on to ``MagentaRT2System``: style_model, temperature, top_k, cfg_scales.

    Raises:
      FileNotFoundError: ``home`` has no such checkpoint.
    """
    with _known_to_upstream(ARCHITECTURES[name], home, compute_dtype):
        return system.MagentaRT2System(size=name, **kwargs)


@contextmanager
def _known_to_upstream(
    architecture: Architecture, home: Path, compute_dtype: DType
) -> Iterator[None]:
    model_class = architecture.model_class_with(compute_dtype)
    # Made before its function is replaced: it is what this architecture starts from.
    codec = architecture.spectrostream_config()
    with (
        mock.patch.dict(model.MODEL_REGISTRY, {architecture.name: model_class}),
        mock.patch.dict(
            system._CHECKPOINT_REGISTRY, {architecture.name: architecture.checkpoint_name}
        ),
        mock.patch.object(
            spectrostream,
            "stft_spectrostream_40ms_generic_48khz_stereo_config",
            return_value=codec,
        ),
        mock.patch.object(paths, "_MAGENTA_HOME", Path(home)),
    ):
        yield
