"""The shapes of the models we can serve: upstream's two, and the demo that we ship.

An :class:`Architecture` turns a model's name into upstream's own configurations; sizes of
upstream's models are never written down here, they are read from its registry.

Invariant: every architecture takes the same conditioning (int32 [144] a frame) and makes the
same audio (int16 [1920, 2] a frame at 48 kHz), so that nothing outside ``model/`` asks which
one is loaded; and its parameters are exactly those that upstream's system would look for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from magenta_rt.config import MUSICCOCA, ModelSpec, TokensConfig
from magenta_rt.jax import depthformer, spectrostream, system
from magenta_rt.jax.model import MODEL_REGISTRY, MagentaRT2ModelBase

from magenta_bento import conditioning

DType = Any  # jnp.float32 or jnp.bfloat16; jax has no public type for such a scalar class

CONDITIONING_SIZE = conditioning.SIZE

DEMO_STYLE_DIMS = 16
DEMO_CODEC_DIMS = 56


class DemoModel(MagentaRT2ModelBase):  # type: ignore[misc]  # upstream is untyped
    """Upstream's language model in a small size.

    It differs from upstream's two in one choice that upstream offers: rotary positions, with
    scalar attention sinks, which don't depend on them. Without positions a window of past
    frames is a bag of frames; large models learn to count all the same, this one could not.
    """

    encoder_size = ModelSpec(model_dims=64)  # the encoder has no layers: only the width counts
    decoder_temporal_size = ModelSpec(
        num_layers=4,
        model_dims=128,
        hidden_dims=384,
        num_heads=4,
        dim_per_head=32,
        ffn_use_gated_activation=False,
    )
    decoder_depth_size = ModelSpec(
        num_layers=1,
        model_dims=64,
        hidden_dims=256,
        num_heads=2,
        dim_per_head=32,
        ffn_use_gated_activation=False,
    )
    use_rope = True
    num_attention_sink_embeddings = 0
    use_attention_sink_scalars = True
    # A bar and more of the slowest tempo that its training music has.
    decoder_temporal_self_attention_max_past_horizon = 80
    # Notes and drums mean the frame at hand: the least that upstream's attention allows.
    encoder_max_past_horizon = 1
    decoder_temporal_cross_attention_max_past_horizon = 1

    @property
    def input_configs(self) -> Sequence[TokensConfig]:
        """Upstream's inputs, with a narrower table of style tokens."""
        _, *others = super().input_configs
        return (dataclasses.replace(MUSICCOCA, embedding_size=DEMO_STYLE_DIMS), *others)


def _demo_codec(full: spectrostream.SpectroStream.Config) -> spectrostream.SpectroStream.Config:
    """Upstream's codec with its frames and lookahead, but few and wide layers.

    Time is cut in one step and frequency in another, into 8 bands of 3 kHz: a tenth of the
    layers, each one a large matrix product, decode in about a millisecond on one core.
    """
    return dataclasses.replace(
        full,
        num_features=DEMO_CODEC_DIMS,
        ratios=((1, 60), (4, 1)),
        mults=(16, 2),
        channel_recombo_block=1,  # left and right part before the step in frequency
        decoder_base_conv_depth=2,
        decoder_base_conv_size=3,
        quantizer=dataclasses.replace(
            full.quantizer,
            num_quantizers=full.quantizer.truncation_level,
            embedding_dim=DEMO_CODEC_DIMS,
        ),
    )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One model size.

    Attributes:
      name: What operators and clients call it.
      checkpoint_name: Its file in a model home's ``checkpoints`` folder.
      is_demo: True when its weights come with this package and are not Magenta's.
      description: One sentence for people.
      model_class: Upstream's description of the language model.
      resize_codec: Makes this model's codec configuration from upstream's.
    """

    name: str
    checkpoint_name: str
    is_demo: bool
    description: str
    model_class: type[MagentaRT2ModelBase]
    resize_codec: Callable[
        [spectrostream.SpectroStream.Config], spectrostream.SpectroStream.Config
    ] = lambda full: full

    def model_class_with(self, compute_dtype: DType) -> type[MagentaRT2ModelBase]:
        """A subclass of ``model_class`` that computes in the given dtype."""
        name = f"{self.model_class.__name__}_{jnp.dtype(compute_dtype).name}"
        return type(name, (self.model_class,), {"compute_dtype": compute_dtype})

    def depthformer_config(
        self, compute_dtype: DType = jnp.bfloat16
    ) -> depthformer.EncoderDecoder.Config:
        """The language model; parameters are float32 whatever it computes in."""
        return self.model_class_with(compute_dtype)().depthformer_config()

    def spectrostream_config(
        self, compute_dtype: DType = jnp.float32
    ) -> spectrostream.SpectroStream.Config:
        """The codec; upstream computes it in float32 beside a bfloat16 language model."""
        return self.resize_codec(
            spectrostream.stft_spectrostream_40ms_generic_48khz_stereo_config(
                rvq_truncation_level=self.model_class.spectrostream.rvq_truncation_level,
                compute_dtype=compute_dtype,
                use_unique_codes=False,
            )
        )

    def sampler_config(
        self, compute_dtype: DType = jnp.bfloat16, codec_dtype: DType = jnp.float32
    ) -> system.MagentaRT2Sampler.Config:
        """Conditioning int32 [B, 1, 144] to audio int16 [B, 1920, 2], one frame a step.

        Args:
          compute_dtype: What the language model computes in.
          codec_dtype: What the codec computes in.
        """
        return system.MagentaRT2Sampler.Config(
            depthformer=self.depthformer_config(compute_dtype),
            spectrostream=self.spectrostream_config(codec_dtype),
        )


def _upstream(name: str, description: str) -> Architecture:
    return Architecture(
        name=name,
        checkpoint_name=f"{name}.safetensors",
        is_demo=False,
        description=description,
        model_class=MODEL_REGISTRY[name],
    )


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        architecture.name: architecture
        for architecture in (
            _upstream("mrt2_base", "Magenta RealTime 2 base, 2.4 billion parameters."),
            _upstream("mrt2_small", "Magenta RealTime 2 small, 0.28 billion parameters."),
            Architecture(
                name="demo",
                checkpoint_name="demo.safetensors",
                is_demo=True,
                description="A toy that ships with this package: trained on synthesised patterns "
                "alone, it makes simple music by the same path as the real models.",
                model_class=DemoModel,
                resize_codec=_demo_codec,
            ),
        )
    }
)
