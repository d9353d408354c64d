"""The sampler's graph, with the same mathematics as upstream's and less work.

Three parts differ from upstream's:

1. the head computes the 1,024 logits of the level at hand, not all 12,294 (``sampling``);
2. transposed convolutions are one matrix product and an overlap-add, not a convolution over
   an input blown up with zeros;
3. the RVQ table holds the levels that are used.

Invariant: RVQ codes are identical to upstream's for the same parameters and compute dtype;
audio is identical too, or within one int16 step where (2) adds in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import sequence_layers.jax as sl
from magenta_rt.jax import depthformer, spectrostream, system

from magenta_bento.model import sampling
from magenta_bento.model.architecture import Architecture, DType


class Decoder(depthformer.MultivariateDecoder):  # type: ignore[misc]  # upstream is untyped
    """Upstream's decoder with one small head a level, to sample from; it can't be trained."""

    @dataclasses.dataclass(frozen=True)
    class Config(depthformer.MultivariateDecoder.Config):  # type: ignore[misc]
        head: sl.Dense.Config = dataclasses.field(default_factory=lambda: sl.Dense.Config(0))

        @classmethod
        def of(cls, upstream: depthformer.MultivariateDecoder.Config) -> Decoder.Config:
            """Takes the full-vocabulary head off the end of upstream's depth body."""
            *body, full_head = upstream.depth_body.layers
            fields = _fields(upstream)
            fields["depth_body"] = dataclasses.replace(upstream.depth_body, layers=body)
            return cls(**fields, head=full_head)

        def make(self) -> Decoder:
            return Decoder(self, name=self.name)

    config: Config

    def setup(self) -> None:
        super().setup()
        self.heads = [
            dataclasses.replace(
                self.config.head, features=self.config.codebook_size, name=head_name(level)
            ).make()
            for level in range(self.config.num_codebooks)
        ]

    def step_with_emits(
        self,
        x: sl.Sequence,
        state: sl.State,
        *,
        training: bool,
        constants: sl.Constants | None = None,
    ) -> tuple[sl.Sequence, sl.State, sl.Emits]:
        """One frame: embed the last frame, one temporal step, then one depth step a level."""
        constants = constants or {}
        keys, previous, temporal_state, step = state  # keys: uint32 [B, 2]; step: int32 [B]

        frame = self.embedder(previous, training=training)
        frame = frame.apply_values(jnp.mean, axis=-2)
        hidden, temporal_state = self.temporal_body.step(
            frame, temporal_state, training=training, constants=constants
        )
        depth_state = self.depth_body.get_initial_state(
            batch_size=hidden.shape[0], input_spec=hidden.channel_spec, training=training
        )
        cap = self.config.soft_cap_logits
        tokens = []
        for level in range(self.config.num_codebooks):
            hidden, depth_state = self.depth_body.step(hidden, depth_state, training=training)
            logits = self.heads[level].layer(hidden, training=training).values[:, 0]
            if cap is not None:
                logits = jnp.tanh(logits / cap) * cap
            token = sampling.sample(
                logits.astype(jnp.float32),
                keys,
                self.config.num_reserved_tokens + level * self.config.codebook_size,
                constants[depthformer.TEMPERATURE_CONSTANT],
                constants[depthformer.TOP_K_CONSTANT],
            )
            keys = jax.vmap(jax.random.fold_in)(keys, step)
            tokens.append(token)
            if level + 1 < self.config.num_codebooks:
                hidden = self.embedder(sl.Sequence.from_values(token[:, None]), training=training)

        codes = sl.Sequence.from_values(jnp.stack(tokens, axis=-1)[:, None])
        return codes, (keys, codes, temporal_state, step + 1), None


def head_name(level: int) -> str:
    return f"to_logits_{level}"


class MatmulConv2DTranspose(sl.Conv2DTranspose):  # type: ignore[misc]
    """A transposed convolution as a matrix product and an overlap-add.

    Every input place adds ``x @ kernel`` at ``place * stride``. With the kernel cut into
    pieces as long as the stride, that is one product and a sum of shifted pieces
    (Dumoulin & Visin 2016, "A guide to convolution arithmetic", section 4).
    """

    @dataclasses.dataclass(frozen=True)
    class Config(sl.Conv2DTranspose.Config):  # type: ignore[misc]
        def make(self) -> MatmulConv2DTranspose:
            return MatmulConv2DTranspose(self, name=self.name)

    @nn.compact
    def _layer(
        self, x: jax.Array, explicit_padding: tuple[tuple[int, int], tuple[int, int]]
    ) -> tuple[jax.Array, jax.Array]:
        """float [B, T, F, I] -> float [B, T', F', O], and the bias to add after it."""
        cfg = self.config
        channels = x.shape[3]
        shape = (*cfg.kernel_size, channels, cfg.filters)
        kernel = self.param("kernel", cfg.kernel_init, shape, cfg.param_dtype)
        bias = self.param("bias", cfg.bias_init, (cfg.filters,), cfg.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=cfg.compute_dtype)

        (k_t, k_f), (s_t, s_f) = cfg.kernel_size, cfg.strides
        n_t, n_f = -(-k_t // s_t), -(-k_f // s_f)  # pieces, the last one padded with zeros
        # lax.conv_general_dilated correlates; scattering needs the kernel the other way round.
        kernel = jnp.pad(
            kernel[::-1, ::-1], ((0, n_t * s_t - k_t), (0, n_f * s_f - k_f), (0, 0), (0, 0))
        )
        kernel = kernel.reshape(n_t, s_t, n_f, s_f, channels, cfg.filters)
        kernel = kernel.transpose(4, 0, 2, 1, 3, 5)  # [I, n_t, n_f, s_t, s_f, O]
        pieces = jnp.einsum("btfi,ipqrso->pqbtrfso", x, kernel)

        batch, time, freq = x.shape[:3]
        out = jnp.zeros(
            (batch, time + n_t - 1, s_t, freq + n_f - 1, s_f, cfg.filters), pieces.dtype
        )
        for p in range(n_t):
            for q in range(n_f):
                out = out.at[:, p : p + time, :, q : q + freq].add(pieces[p, q])
        out = out.reshape(batch, (time + n_t - 1) * s_t, (freq + n_f - 1) * s_f, cfg.filters)
        for axis, (size, k, s, (low, high)) in enumerate(
            ((time, k_t, s_t, explicit_padding[0]), (freq, k_f, s_f, explicit_padding[1])), 1
        ):
            length = (size - 1) * s + 2 - k + low + high
            out = jax.lax.slice_in_dim(out, k - 1 - low, k - 1 - low + length, axis=axis)
        return out, bias


class Codec(spectrostream.SpectroStream):  # type: ignore[misc]
    """Upstream's codec with its transposed convolutions as matrix products."""

    @dataclasses.dataclass(frozen=True)
    class Config(spectrostream.SpectroStream.Config):  # type: ignore[misc]
        @property
        def decoder(self) -> sl.SequenceLayerConfig:
            return rewrite(super().decoder, _as_matmul)

        def make(self) -> Codec:
            return Codec(self, name=self.name)

    config: Config


def sampler_config(
    architecture: Architecture,
    compute_dtype: DType,
    codec_dtype: DType = jnp.float32,
    exact_codec: bool = False,
) -> system.MagentaRT2Sampler.Config:
    """Conditioning int32 [B, 1, 144] to audio int16 [B, 1920, 2], one frame a step.

    Args:
      architecture: The model.
      compute_dtype: What the language model computes in.
      codec_dtype: What the codec computes in.
      exact_codec: Keep upstream's transposed convolutions, for audio equal to the last bit.
    """
    upstream = architecture.sampler_config(compute_dtype, codec_dtype)
    language_model = upstream.depthformer
    quantizer = upstream.spectrostream.quantizer
    codec = dataclasses.replace(
        upstream.spectrostream,
        quantizer=dataclasses.replace(quantizer, num_quantizers=quantizer.truncation_level),
    )
    return dataclasses.replace(
        upstream,
        depthformer=dataclasses.replace(
            language_model, decoder=Decoder.Config.of(language_model.decoder)
        ),
        spectrostream=codec if exact_codec else Codec.Config(**_fields(codec)),
    )


def rewrite(config: Any, replace: Callable[[Any], Any]) -> Any:
    """Rebuilds a tree of frozen configurations with ``replace`` applied to every node."""
    if isinstance(config, (list, tuple)):
        return type(config)(rewrite(item, replace) for item in config)
    if not isinstance(config, sl.SequenceLayerConfig):
        return config
    changed = {
        name: new
        for name, old in _fields(config).items()
        if (new := rewrite(old, replace)) is not old
    }
    return replace(dataclasses.replace(config, **changed) if changed else config)


def _as_matmul(config: Any) -> Any:
    plain = type(config) is sl.Conv2DTranspose.Config
    if not plain or config.groups != 1 or config.dilation_rate != (1, 1) or not config.use_bias:
        return config
    return MatmulConv2DTranspose.Config(**_fields(config))


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
