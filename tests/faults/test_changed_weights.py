"""A model's files that change while they are served."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from serving import COMPILE_CACHE, REPOSITORY

from magenta_bento.conditioning import SIZE
from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.model.jax_model import JaxModel
from magenta_bento.model.loader import load_model
from magenta_bento.model.protocol import StepInputs
from magenta_bento.weights.catalog import ModelFiles, locate

DEMO = locate("demo", Settings())
SETTINGS = Settings(max_streams=1, compile_cache=COMPILE_CACHE)


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> ModelFiles:
    """A copy of the demo that may be spoilt."""
    checkpoint = tmp_path / DEMO.checkpoint.name
    shutil.copy(DEMO.checkpoint, checkpoint)
    shutil.copytree(DEMO.musiccoca_dir, tmp_path / "musiccoca")
    return dataclasses.replace(DEMO, checkpoint=checkpoint, musiccoca_dir=tmp_path / "musiccoca")


def music(model: JaxModel) -> NDArray[np.int16]:
    state = model.insert(model.init_state(1), 0, seed=1)
    inputs = StepInputs(
        tokens=np.full((1, model.max_frames, SIZE), 7, np.int32),
        temperature=np.ones((1, model.max_frames), np.float32),
        top_k=np.full((1, model.max_frames), 40, np.int32),
        active=np.ones(1, np.bool_),
    )
    blocks = []
    for _ in range(3):
        state, audio = model.step(state, inputs)
        blocks.append(np.asarray(audio.fetch()))
    return np.concatenate(blocks, axis=1)


def test_a_checkpoint_cut_short_changes_no_music_and_stops_the_next_start(
    files: ModelFiles,
) -> None:
    model, _ = load_model(SETTINGS, files)
    before = music(model)
    assert before.any()
    for left in (1_000_000, 0):
        os.truncate(files.checkpoint, left)
        np.testing.assert_array_equal(music(model), before)
    os.truncate(files.checkpoint, DEMO.checkpoint.stat().st_size)  # of zeros
    np.testing.assert_array_equal(music(model), before)
    os.truncate(files.checkpoint, 1_000_000)
    assert set(files.faults()) == {files.checkpoint}
    with pytest.raises(WeightsError, match="`magenta-bento models verify demo`"):
        load_model(SETTINGS, files)


ENCODE = """
import os, sys
from pathlib import Path
from magenta_bento.style import StyleEncoder

folder, change = Path(sys.argv[1]), sys.argv[2]
styles = StyleEncoder(folder)
styles.warm_up()
for file in folder.glob("*.tflite"):
    if change == "replaced":  # as `magenta-bento models download` does it
        spoilt = file.with_suffix(".new")
        spoilt.write_bytes(b"another file")
        spoilt.replace(file)
    else:
        os.truncate(file, 0)
print("changed", flush=True)
print(styles.embed_text("a prompt that was not asked for before").sum())
"""


@pytest.mark.parametrize(
    ("change", "ends_with"), [("replaced", 0), ("cut short in place", -signal.SIGBUS)]
)
def test_the_style_encoder_reads_its_files_for_as_long_as_it_serves(
    files: ModelFiles, change: str, ends_with: int
) -> None:
    """They are mapped into memory: a file that is replaced stays, one that is cut is gone."""
    ended = subprocess.run(
        [sys.executable, "-c", ENCODE, str(files.musiccoca_dir), change],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "changed" in ended.stdout, ended.stderr
    assert ended.returncode == ends_with, ended.stderr
