"""The registry of architectures, against upstream's own and against known parameter counts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest
from magenta_rt.jax.model import MODEL_REGISTRY

from magenta_bento.model.architecture import ARCHITECTURES, CONDITIONING_SIZE
from tools.demo_model import checkpoint

CODEBOOK = "params/soundstream/quantizer/embedding"


def _parameters(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    architecture = ARCHITECTURES[name]
    return jax.eval_shape(lambda key: checkpoint.initial(architecture, key), jax.random.PRNGKey(0))


def test_the_registry_is_upstreams_and_the_demo() -> None:
    assert set(ARCHITECTURES) == {*MODEL_REGISTRY, "demo"}
    assert [a.name for a in ARCHITECTURES.values()] == list(ARCHITECTURES)
    assert [a.name for a in ARCHITECTURES.values() if a.is_demo] == ["demo"]
    for name, model_class in MODEL_REGISTRY.items():
        assert ARCHITECTURES[name].model_class is model_class
        assert ARCHITECTURES[name].checkpoint_name == f"{name}.safetensors"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_the_same_conditioning(name: str) -> None:
    assert ARCHITECTURES[name].model_class().input_num_channels == CONDITIONING_SIZE


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_makes_the_same_audio(name: str) -> None:
    codec = ARCHITECTURES[name].spectrostream_config()
    assert codec.audio_sample_rate == 48_000
    assert codec.waveform_to_codes_ratio == 1_920
    assert codec.quantizer.num_embeddings == 1_024
    assert codec.quantizer.truncation_level == 12


@pytest.mark.parametrize(
    ("name", "count"),
    [("demo", 4_827_094), ("mrt2_small", 282_194_376), ("mrt2_base", 2_459_163_592)],
)
def test_parameter_counts(name: str, count: int) -> None:
    parameters = _parameters(name)
    assert sum(math.prod(leaf.shape) for leaf in parameters.values()) == count
    assert {leaf.dtype for leaf in parameters.values()} == {jnp.dtype(jnp.float32)}
    stored_levels = 12 if name == "demo" else 64
    assert parameters[CODEBOOK].shape[:2] == (stored_levels, 1_024)


@pytest.mark.parametrize("compute_dtype", [jnp.float32, jnp.bfloat16])
def test_the_language_model_computes_as_told_and_the_codec_in_float32(compute_dtype: type) -> None:
    sampler = ARCHITECTURES["demo"].sampler_config(compute_dtype)
    assert sampler.depthformer.encoder.compute_dtype is compute_dtype
    assert sampler.depthformer.encoder.param_dtype is jnp.float32
    assert sampler.spectrostream.compute_dtype is jnp.float32


def test_the_default_is_upstreams_bfloat16() -> None:
    for name, model_class in MODEL_REGISTRY.items():
        assert ARCHITECTURES[name].depthformer_config().encoder.compute_dtype is jnp.bfloat16
        assert model_class.compute_dtype is jnp.bfloat16
