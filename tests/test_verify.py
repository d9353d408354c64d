"""The demo verifies, and whatever is done to it is found, all of it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from magenta_bento.config import Settings
from magenta_bento.model import verify as verify_module
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.model.verify import GOLDEN_TOKENS, expected_parameters, verify
from magenta_bento.style import StyleEncoder
from magenta_bento.weights.catalog import ModelFiles, locate

Tensors = dict[str, np.ndarray]

BIAS = "params/depthformer/decoder/depth_body/final_ln/bias"  # float32 [32]
SCALE = "params/depthformer/decoder/depth_body/final_ln/scale"  # float32 [32]
TABLE = "params/soundstream/quantizer/embedding"  # float32 [12, 1024, 16]


@pytest.fixture(autouse=True)
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing the model takes seconds and gives the same each time."""
    monkeypatch.setattr(verify_module, "expected_parameters", _expected)


_expected = functools.cache(expected_parameters)


@pytest.fixture
def demo() -> ModelFiles:
    return locate("demo", Settings.from_env({}))


@pytest.fixture
def damaged(
    demo: ModelFiles, tmp_path: Path
) -> Callable[[Callable[[Tensors], object]], ModelFiles]:
    """Makes a copy of the demo whose tensors were changed."""

    def make(change: Callable[[Tensors], object]) -> ModelFiles:
        shutil.copytree(demo.musiccoca_dir, tmp_path / "musiccoca")
        tensors = safetensors.numpy.load_file(str(demo.checkpoint))
        change(tensors)
        safetensors.numpy.save_file(tensors, str(tmp_path / "demo.safetensors"))
        return ModelFiles("demo", tmp_path / "demo.safetensors", tmp_path / "musiccoca")

    return make


def test_the_demo_is_as_it_should_be(demo: ModelFiles) -> None:
    report = verify(demo, ARCHITECTURES["demo"])
    assert report.problems == ()
    assert report.remarks == ()
    assert report.ok
    tensors = safetensors.numpy.load_file(str(demo.checkpoint))
    assert report.parameters == sum(tensor.size for tensor in tensors.values())


@pytest.mark.parametrize(
    ("name", "millions"), [("mrt2_small", (282, 284)), ("mrt2_base", (2459, 2460))]
)
def test_upstreams_models_have_their_known_size(name: str, millions: tuple[int, int]) -> None:
    entries = _expected(ARCHITECTURES[name]).values()
    low, high = (bound * 1_000_000 for bound in millions)
    assert low <= sum(int(np.prod(entry.shape)) for entry in entries) <= high
    assert {entry.dtype for entry in entries} == {"F32"}


def test_every_difference_is_listed(damaged: Callable[..., ModelFiles]) -> None:
    def change(tensors: Tensors) -> None:
        del tensors[BIAS]
        tensors[SCALE] = np.zeros((2, 33), np.float16)
        tensors[TABLE] = tensors[TABLE].astype(ml_dtypes.bfloat16)
        tensors["params/depthformer/extra"] = np.zeros((3, 4), np.float32)
        tensors["params/soundstream/encoder/kernel"] = np.zeros(5, np.float32)

    report = verify(damaged(change), ARCHITECTURES["demo"])
    assert set(report.problems) == {
        f"missing parameter {BIAS}: F32 [64]",
        f"wrong shape of parameter {SCALE}: [2, 33], expected [64]",
        f"wrong dtype of parameter {SCALE}: F16, expected F32",
        f"wrong dtype of parameter {TABLE}: BF16, expected F32",
        "unexpected parameter params/depthformer/extra: F32 [3, 4]",
    }
    assert report.remarks == ("unused parameter params/soundstream/encoder/kernel: F32 [5]",)
    assert not report.ok


def test_nothing_is_hidden_when_everything_is_wrong(damaged: Callable[..., ModelFiles]) -> None:
    report = verify(damaged(lambda tensors: tensors.clear()), ARCHITECTURES["demo"])
    assert len(report.problems) == len(_expected(ARCHITECTURES["demo"]))


def test_another_models_checkpoint_doesnt_pass(demo: ModelFiles) -> None:
    report = verify(demo, ARCHITECTURES["mrt2_small"])
    assert any("wrong shape of parameter" in problem for problem in report.problems)
    # The demo's style encoder isn't the released one, and mrt2_small needs that.
    golden = [problem for problem in report.problems if "upstream's gives" in problem]
    assert len(golden) == len(GOLDEN_TOKENS)


def test_golden_tokens_pass(demo: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a style encoder that gives upstream's tokens, as the released one does."""
    embeddings = {key: np.full(768, i, np.float32) for i, key in enumerate(GOLDEN_TOKENS)}
    golden = {embeddings[key].tobytes(): tokens for key, tokens in GOLDEN_TOKENS.items()}
    monkeypatch.setattr(StyleEncoder, "warm_up", lambda self: None)
    monkeypatch.setattr(StyleEncoder, "embed_text", lambda self, *key: embeddings[key])
    monkeypatch.setattr(
        StyleEncoder, "tokenize", lambda self, e: np.array(golden[e.tobytes()], np.int32)
    )
    report = verify(demo, ARCHITECTURES["mrt2_small"])
    assert not any("MusicCoCa" in problem for problem in report.problems)


def test_missing_and_cut_files_are_all_told(
    damaged: Callable[..., ModelFiles], tmp_path: Path
) -> None:
    files = damaged(lambda tensors: None)
    files.checkpoint.write_bytes(files.checkpoint.read_bytes()[:-1])
    (files.musiccoca_dir / "mapper.tflite").unlink()
    report = verify(files, ARCHITECTURES["demo"])
    assert report.problems == (
        f"{files.checkpoint}: incomplete",
        f"{files.musiccoca_dir / 'mapper.tflite'}: missing",
    )
    assert report.parameters == 0


def test_a_style_encoder_that_doesnt_load_is_told(damaged: Callable[..., ModelFiles]) -> None:
    files = damaged(lambda tensors: None)
    encoder = files.musiccoca_dir / "music_encoder.tflite"
    encoder.write_bytes(encoder.read_bytes()[:16])
    report = verify(files, ARCHITECTURES["demo"])
    assert len(report.problems) == 1
    assert "can't be loaded" in report.problems[0]
