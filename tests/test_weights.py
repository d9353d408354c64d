"""Which files count as whole, where they are looked for, and which model is chosen."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import hub as stand_in
import pytest

from magenta_bento.config import Settings
from magenta_bento.errors import WeightsError
from magenta_bento.weights import catalog
from magenta_bento.weights.header import TensorEntry, read_header

SMALL = "checkpoints/mrt2_small.safetensors"
BASE = "checkpoints/mrt2_base.safetensors"
VOCABULARY = "resources/musiccoca/spm.model"
MAPPER = "resources/musiccoca/mapper.tflite"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model home with everything."""
    root = tmp_path / "magenta-rt-v2"
    stand_in.lay(root, stand_in.repository())
    return root


def settings(root: Path, model: str = "auto") -> Settings:
    return Settings.from_env({"MAGENTA_HOME": str(root.parent), "MAGENTA_MODEL": model})


def test_the_layout_is_upstreams(root: Path) -> None:
    files = catalog.locate("mrt2_small", settings(root))
    assert files.checkpoint == root / SMALL
    assert files.musiccoca_dir == root / "resources" / "musiccoca"
    assert len(files.all) == 7
    assert files.size_bytes == sum(path.stat().st_size for path in files.all)


def test_a_home_may_start_with_a_tilde(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    tilde = Settings.from_env({"MAGENTA_HOME": "~"})
    assert catalog.locate("mrt2_small", tilde).missing() == []


def test_the_demo_ships_whole(root: Path) -> None:
    files = catalog.locate("demo", settings(root))
    assert files.missing() == []
    assert Path(catalog.__file__).parent in files.checkpoint.parents


def test_there_is_no_other_model(root: Path) -> None:
    with pytest.raises(WeightsError, match="no model 'mrt3'; there are mrt2_base, mrt2_small"):
        catalog.locate("mrt3", settings(root))


def test_auto_takes_the_best_model_that_is_whole(root: Path) -> None:
    assert catalog.choose(settings(root)).name == "mrt2_base"
    truncate(root / BASE, 1)
    assert catalog.choose(settings(root)).name == "mrt2_small"
    (root / SMALL).unlink()
    assert catalog.choose(settings(root)).name == "demo"


def test_auto_needs_the_style_encoder_too(root: Path) -> None:
    (root / MAPPER).unlink()
    assert catalog.choose(settings(root)).name == "demo"


@pytest.mark.parametrize("model", ["mrt2_base", "mrt2_small", "demo"])
def test_a_named_model_is_taken_as_named(root: Path, model: str) -> None:
    assert catalog.choose(settings(root, model)).name == model


def test_a_named_model_that_isnt_whole_names_every_file_and_the_remedy(root: Path) -> None:
    truncate(root / SMALL, 1)
    (root / VOCABULARY).write_bytes(b"")
    (root / MAPPER).unlink()
    with pytest.raises(WeightsError) as raised:
        catalog.choose(settings(root, "mrt2_small"))
    assert str(raised.value) == (
        f"mrt2_small can't be served from {root}: {SMALL} (incomplete), "
        f"{VOCABULARY} (empty), {MAPPER} (missing). Run: magenta-bento models download mrt2_small"
    )


@pytest.mark.parametrize(
    ("path", "content", "fault"),
    [
        (SMALL, b"", "empty"),
        (SMALL, b"short", "incomplete"),
        (SMALL, stand_in.safetensors({"a": 64})[:-1], "incomplete"),
        (SMALL, stand_in.safetensors({"a": 64}) + b"\0", "incomplete"),
        (SMALL, stand_in.safetensors({"a": 64})[:20], "incomplete"),
        (SMALL, b"<html>no such page</html>", "incomplete"),
        (SMALL, struct.pack("<Q", 2) + b"[]", "incomplete"),
        (SMALL, LFS_POINTER, "a git-lfs pointer, not the file itself"),
        (MAPPER, b"", "empty"),
        (MAPPER, b"<html>no such page</html>", "incomplete"),
        (MAPPER, LFS_POINTER, "a git-lfs pointer, not the file itself"),
        (VOCABULARY, LFS_POINTER, "a git-lfs pointer, not the file itself"),
    ],
)
def test_what_is_not_whole(root: Path, path: str, content: bytes, fault: str) -> None:
    (root / path).write_bytes(content)
    files = catalog.locate("mrt2_small", settings(root))
    assert files.faults() == {root / path: fault}
    assert files.missing() == [root / path]


def test_a_folder_is_no_file(root: Path) -> None:
    (root / SMALL).unlink()
    (root / SMALL).mkdir()
    assert catalog.locate("mrt2_small", settings(root)).faults() == {root / SMALL: "missing"}


def test_a_link_is_as_good_as_a_file(root: Path) -> None:
    """Shared storage and the hub's own cache hold models behind links."""
    kept = root / "kept"
    (root / SMALL).rename(kept)
    (root / SMALL).symlink_to(kept)
    assert catalog.locate("mrt2_small", settings(root)).missing() == []
    kept.unlink()
    assert catalog.locate("mrt2_small", settings(root)).missing() == [root / SMALL]


def test_a_header_tells_names_shapes_and_dtypes(tmp_path: Path) -> None:
    """Against the safetensors library's own writer."""
    import numpy as np
    import safetensors.numpy

    path = tmp_path / "file.safetensors"
    tensors = {"a/b": np.zeros((2, 3), np.float32), "c": np.zeros((), np.int32)}
    safetensors.numpy.save_file(tensors, str(path), metadata={"format": "any"})
    assert read_header(path) == {"a/b": TensorEntry((2, 3), "F32"), "c": TensorEntry((), "I32")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header too small"),
        (b"<html>no such page</html>", "header too large"),
        (stand_in.safetensors({"a": 64})[:20], "invalid header length"),
        (stand_in.safetensors({"a": 64})[:-100], "file not fully covered"),
        (stand_in.safetensors({"a": 64}) + bytes(100), "file not fully covered"),
        (struct.pack("<Q", 2) + b"[]", "invalid JSON"),
    ],
)
def test_a_file_that_is_not_whole_has_no_header(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    whole = re.escape(f"{path}, {len(content)} bytes long, is not a whole safetensors file")
    with pytest.raises(WeightsError, match=f"{whole}: .*{reason}"):
        read_header(path)


def test_a_file_that_is_not_there_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    with pytest.raises(WeightsError, match=re.escape(f"{path} can't be read: No such file")):
        read_header(path)


def test_only_the_header_of_a_large_file_is_read(tmp_path: Path) -> None:
    """A sparse file of 100 GB: whoever read its tensors would not fit into memory."""
    path = tmp_path / "large.safetensors"
    size_bytes = 100 << 30
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [size_bytes // 4], "data_offsets": [0, size_bytes]}}
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size_bytes)
    assert read_header(path) == {"a": TensorEntry((size_bytes // 4,), "F32")}


def truncate(path: Path, missing_bytes: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-missing_bytes])
