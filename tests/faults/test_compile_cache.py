"""A compile cache that can't be kept costs time at each start, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import pytest

from magenta_bento.config import Settings
from magenta_bento.model import loader


def test_a_cache_that_cannot_be_made_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("magenta_bento"), "propagate", True)
    before = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").touch()
    loader._set_up(Settings(compile_cache=tmp_path / "file" / "xla"))
    assert "each start compiles anew" in caplog.text
    assert jax.config.jax_compilation_cache_dir == before
