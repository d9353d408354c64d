"""Model folders for benchmarks: the bundled demo, or random weights of a real model's shapes.

Speed does not depend on what the weights are, only on their shapes and types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import safetensors.numpy

from magenta_bento.config import Settings
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.weights.catalog import ModelFiles, locate
from tools.demo_model.checkpoint import initial

DEMO_HOME = locate("demo", Settings()).checkpoint.parents[1]


@contextmanager
def model_home(name: str) -> Iterator[Path]:
    """A folder in upstream's layout, with random weights if the model is not the demo."""
    if ARCHITECTURES[name].is_demo:
        yield DEMO_HOME
        return
    with TemporaryDirectory(prefix="magenta-bento-bench-") as folder:
        home = Path(folder)
        (home / "checkpoints").mkdir()
        shapes = jax.eval_shape(lambda: initial(ARCHITECTURES[name], jax.random.PRNGKey(0)))
        # One block is repeated: billions of random numbers would take longer than the benchmark.
        block = np.random.default_rng(0).standard_normal(1 << 20, np.float32) * np.float32(0.02)
        tensors = {key: np.resize(block, shape.shape) for key, shape in shapes.items()}
        file = home / "checkpoints" / ARCHITECTURES[name].checkpoint_name
        safetensors.numpy.save_file(tensors, file)
        yield home


def files_in(home: Path, name: str) -> ModelFiles:
    """The model of a folder, with the demo's style encoder, on which speed does not depend."""
    checkpoint = home / "checkpoints" / ARCHITECTURES[name].checkpoint_name
    return ModelFiles(name, checkpoint, locate("demo", Settings()).musiccoca_dir)
