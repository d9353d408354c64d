"""The rewritten graph: the same numbers as upstream's layers, and parameters that fit it."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import pytest
import sequence_layers.jax as sl

from magenta_bento.model import graph, params
from magenta_bento.model.architecture import ARCHITECTURES, CONDITIONING_SIZE, Architecture
from magenta_bento.model.verify import expected_parameters

IN, OUT = 5, 7


def transposed(
    kernel: tuple[int, int], stride: tuple[int, int], **others: Any
) -> sl.Conv2DTranspose.Config:
    """As SpectroStream's decoder has them: causal in time."""
    return sl.Conv2DTranspose.Config(
        filters=OUT,
        kernel_size=kernel,
        strides=stride,
        time_padding="causal",
        spatial_padding="same",
        bias_init=jax.nn.initializers.normal(),
        **others,
    )


SHAPES = [((4, 4), (2, 2)), ((3, 4), (1, 2)), ((3, 6), (1, 3)), ((4, 3), (2, 1)), ((3, 3), (1, 1))]


@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
@pytest.mark.parametrize("padding", ["causal", "valid", "same"])
def test_a_matrix_product_is_a_transposed_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], padding: str
) -> None:
    config = dataclasses.replace(transposed(kernel, stride), time_padding=padding)
    theirs = config.make()
    ours = graph.rewrite(config, graph._as_matmul).make()
    assert isinstance(ours, graph.MatmulConv2DTranspose)
    values = jax.random.normal(jax.random.PRNGKey(1), (2, 9, 8, IN))
    x = sl.Sequence.from_values(values)
    variables = theirs.init(jax.random.PRNGKey(0), x, training=False, method=theirs.layer)
    wanted = theirs.apply(variables, x, training=False, method=theirs.layer)
    got = ours.apply(variables, x, training=False, method=ours.layer)
    np.testing.assert_array_equal(got.mask, wanted.mask)
    np.testing.assert_allclose(got.values, wanted.values, atol=1e-5)
    if padding != "causal":
        return  # such a layer can't be stepped

    def stepped(module: Any) -> np.ndarray:
        state = module.bind(variables).get_initial_state(2, x.channel_spec, training=False)
        out = []
        for i in range(9):
            y, state = module.apply(
                variables, x[:, i : i + 1], state, training=False, method="step"
            )
            out.append(y.values)
        return np.concatenate(out, axis=1)

    by_steps = stepped(ours)
    np.testing.assert_allclose(by_steps, stepped(theirs), atol=1e-5)
    np.testing.assert_allclose(by_steps, wanted.values[:, : by_steps.shape[1]], atol=1e-5)


def test_rewriting_touches_only_what_it_should() -> None:
    plain = transposed((4, 4), (2, 2))
    kept = [
        dataclasses.replace(plain, groups=2),
        dataclasses.replace(plain, dilation_rate=(2, 1)),
        dataclasses.replace(plain, use_bias=False),
        graph._as_matmul(plain),
        sl.Conv2D.Config(filters=3, kernel_size=(3, 3), strides=(1, 1)),
        sl.Dense.Config(3),
    ]
    for config in kept:
        assert graph.rewrite(config, graph._as_matmul) == config
    tree = sl.Serial.Config([sl.Residual.Config([plain]), *kept])
    new = graph.rewrite(tree, graph._as_matmul)
    assert type(new.layers[0].layers[0]) is graph.MatmulConv2DTranspose.Config
    assert list(new.layers[1:]) == kept
    assert graph._fields(new.layers[0].layers[0]) == graph._fields(plain)
    assert type(tree.layers[0].layers[0]) is sl.Conv2DTranspose.Config  # the old tree is whole


@pytest.mark.parametrize("name", ["demo", "mrt2_small"])
def test_the_codec_is_rewritten_where_its_kernels_are_transposed(name: str) -> None:
    """Every transposed convolution that is left must be one that we can't write as a product."""
    kinds: list[type] = []

    def note(config: Any) -> Any:
        kinds.append(type(config))
        return config

    sampler = graph.sampler_config(ARCHITECTURES[name], jnp.float32)
    graph.rewrite(sampler.spectrostream.decoder, note)
    assert graph.MatmulConv2DTranspose.Config in kinds
    assert sl.Conv2DTranspose.Config not in kinds
    kinds.clear()
    exact = graph.sampler_config(ARCHITECTURES[name], jnp.float32, exact_codec=True)
    graph.rewrite(exact.spectrostream.decoder, note)
    assert sl.Conv2DTranspose.Config in kinds
    assert graph.MatmulConv2DTranspose.Config not in kinds


def our_parameters(architecture: Architecture) -> dict[tuple[str, ...], Any]:
    """Every parameter that our sampler would make; traced, never computed."""
    sampler = graph.sampler_config(architecture, jnp.float32).make()

    def one_step(module: Any) -> None:
        x = sl.Sequence.from_values(jnp.zeros((1, 1, CONDITIONING_SIZE), jnp.int32))
        state = module.get_initial_state(1, x.channel_spec, training=False, constants={})
        constants = {"temperature": jnp.ones(1), "top_k": jnp.ones(1, jnp.int32)}
        module.step_with_emits(x, state, training=False, constants=constants)

    def init() -> Any:
        key = jax.random.PRNGKey(0)
        return sampler.init({"params": key, "random": key}, method=one_step)

    shapes = flax.linen.meta.unbox(jax.eval_shape(init))
    return dict(flax.traverse_util.flatten_dict(shapes))


@pytest.mark.parametrize("name", ["demo", "mrt2_small"])
def test_prepared_parameters_are_those_that_the_graph_looks_up(name: str) -> None:
    architecture = ARCHITECTURES[name]
    decoder = architecture.depthformer_config(jnp.float32).decoder
    checkpoint = {
        tuple(path.split("/")): jax.ShapeDtypeStruct(entry.shape, jnp.float32)
        for path, entry in expected_parameters(architecture).items()
    }
    unused = ("params", "soundstream", "encoder", "only", "training", "needs", "it")
    checkpoint[unused] = jax.ShapeDtypeStruct((1,), jnp.float32)

    def ready(flat: Any) -> Any:
        prepared = params.prepare(
            flat,
            reserved=decoder.num_reserved_tokens,
            levels=decoder.num_codebooks,
            codebook_size=decoder.codebook_size,
        )
        return params.restore(flax.traverse_util.unflatten_dict(prepared))

    got = flax.traverse_util.flatten_dict(jax.eval_shape(ready, checkpoint))
    assert {path: leaf.shape for path, leaf in got.items()} == {
        path: leaf.shape for path, leaf in our_parameters(architecture).items()
    }


def test_the_parts_of_the_head_are_the_head() -> None:
    head, bias = ("params", "depthformer", "decoder", "depth_body", "to_logits", "kernel"), (
        "params", "depthformer", "decoder", "depth_body", "to_logits", "bias",
    )  # fmt: skip
    codec = ("params", "soundstream", "quantizer", "embedding")
    flat = {
        head: jnp.arange(2 * 14.0).reshape(2, 14),
        bias: jnp.arange(14.0),
        codec: jnp.arange(5.0),
    }
    ready = params.prepare(flat, reserved=2, levels=3, codebook_size=4)
    for level in range(3):
        part = slice(2 + 4 * level, 6 + 4 * level)
        stem = ("params", "depthformer", "decoder", f"to_logits_{level}")
        np.testing.assert_array_equal(ready[(*stem, "kernel")], flat[head][:, part])
        np.testing.assert_array_equal(ready[(*stem, "bias")], flat[bias][part])
    assert ready[codec].shape == (3,)
    assert len(ready) == 7


def test_only_what_is_cast_anyway_is_stored_in_bfloat16() -> None:
    stored = {
        path: params._stored(path, jnp.ones(1), jnp.bfloat16).dtype
        for path in [
            ("params", "depthformer", "decoder", "kernel"),
            ("params", "depthformer", "decoder", "sink_key_embeddings"),
            ("params", "depthformer", "decoder", "sink_value_embeddings"),
            ("params", "soundstream", "quantizer", "embedding"),
        ]
    }
    assert list(stored.values()) == [jnp.bfloat16, jnp.float32, jnp.float32, jnp.float32]
