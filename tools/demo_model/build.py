"""``python -m tools.demo_model.build``: makes the demo model's files from nothing but code.

1. The style model hears pieces of our own music and reads their captions.
2. The codec turns pieces into codes and learns to turn codes into sound.
3. The style model learns to hear what the codec does to music as that music.
4. The language model learns to write codes, for the styles, notes and drums of the pieces.
5. What they learned is written in the layout of a real model, and heard.

Everything between, and what a run leaves off and goes on with, is in ``.cache/demo_model``.
``--minutes`` is the time of all the training together; ``--assemble`` does the last step alone.

Invariant: the files depend on what is in the cache alone, byte for byte.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from magenta_bento.model.architecture import ARCHITECTURES, Architecture
from tools.demo_model import checkpoint, listen
from tools.demo_model.codec import tokens as codec
from tools.demo_model.lm import parameters as lm
from tools.demo_model.style.files import files as musiccoca_files

PACKAGE = Path(__file__).parents[2] / "magenta_bento"
HOME = PACKAGE / "weights" / "demo"
# Upstream halves what the codec says before it becomes int16.
GAIN = 2.0
# Module, and its share of the whole time; what makes data takes what it takes.
TRAININGS = (
    ("style.pairs", None),
    ("style.train", 0.05),
    ("codec.train", 0.35),
    ("lm.data", None),
    ("style.adapt", None),
    ("lm.train", 0.6),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=360.0, help="of training")
    options.add_argument("--assemble", action="store_true", help="from what has been trained")
    chosen = options.parse_args()
    if not chosen.assemble:
        train(chosen.minutes)
    demo = ARCHITECTURES["demo"]
    write(musiccoca_files(), parameters(demo), demo)
    report()


def train(minutes: float) -> None:
    """Runs each training in a process of its own, so that its memory ends with it."""
    for module, share in TRAININGS:
        time = () if share is None else ("--minutes", f"{share * minutes:.1f}")
        command = [sys.executable, "-m", f"tools.demo_model.{module}", *time]
        print("#", *command[1:], flush=True)
        subprocess.run(command, check=True)


def parameters(demo: Architecture) -> checkpoint.Parameters:
    """All that was trained, by the names of a real checkpoint.

    Raises:
      ValueError: What was trained is not what the architecture asks for.
    """
    made = checkpoint.amplified(lm.load() | codec.load().exported(), GAIN)
    expected = jax.eval_shape(lambda key: checkpoint.initial(demo, key), jax.random.PRNGKey(0))
    wanted = {name: leaf.shape for name, leaf in expected.items()}
    given = {name: value.shape for name, value in made.items()}
    if wrong := wanted.items() ^ given.items():
        raise ValueError(f"these are not the demo's parameters: {sorted({n for n, _ in wrong})}")
    return {name: np.ascontiguousarray(value, np.float32) for name, value in made.items()}


def write(style: Mapping[str, bytes], made: checkpoint.Parameters, demo: Architecture) -> None:
    resources = HOME / "resources" / "musiccoca"
    resources.mkdir(parents=True, exist_ok=True)
    for name, contents in style.items():
        (resources / name).write_bytes(contents)
    path = HOME / "checkpoints" / demo.checkpoint_name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(safetensors.numpy.save(made))


def report() -> None:
    """A table of what was made and how loud it is."""
    demo = ARCHITECTURES["demo"]
    made = safetensors.numpy.load_file(HOME / "checkpoints" / demo.checkpoint_name)
    files = sorted(path for path in HOME.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size:>10,} bytes  {path.relative_to(HOME)}")
    print(f"{sum(path.stat().st_size for path in files):>10,} bytes  in all")
    print(f"{sum(value.size for value in made.values()):>10,} parameters\n")
    pcm = listen.render(demo, made, HOME / "resources" / "musiccoca")
    print(f"RMS, dBFS, of {pcm.shape[2] / 48_000:.1f} s" + " " * 14 + "seed 0   seed 1   seed 2")
    for prompt, row in zip(listen.PROMPTS, listen.dbfs(pcm), strict=True):
        print(f"  {prompt:<34}" + "".join(f"{level:>7.1f}  " for level in row))
    clipped = np.mean(np.abs(pcm.astype(np.int32)) >= np.iinfo(np.int16).max)
    print(f"{clipped:.2%} of samples clip")


if __name__ == "__main__":
    main()
