"""Whether a model's files are what they should be, told before anything is served.

1. Every file is there and whole.
2. Every parameter of the checkpoint has the name, shape and dtype that the model looks up.
   Only the file's header is read, and the model is only traced: 10 GB take seconds.
3. MusicCoCa loads, and gives the tokens that upstream's tests expect of it.

Invariant: a report holds every difference there is, not the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import magenta_rt  # noqa: F401  # it makes its copy of sequence_layers importable
import numpy as np
import sequence_layers.jax as sl

from magenta_bento.errors import WeightsError
from magenta_bento.model.architecture import CONDITIONING_SIZE, Architecture
from magenta_bento.style import CODEBOOK_SIZE, STYLE_TOKENS, StyleEncoder
from magenta_bento.weights.catalog import ModelFiles
from magenta_bento.weights.header import TensorEntry, read_header

# What upstream's own tests expect of the released MusicCoCa: (prompt, use_mapper) to tokens.
GOLDEN_TOKENS: Mapping[tuple[str, bool], tuple[int, ...]] = MappingProxyType(
    {
        ("disco funk", False): (660, 597, 668, 315, 857, 217, 930, 175, 655, 343, 534, 137),
        ("a jazz piano trio", False): (555, 402, 72, 993, 482, 932, 402, 153, 33, 374, 519, 147),
        ("disco funk", True): (660, 1016, 208, 530, 589, 702, 376, 54, 203, 444, 36, 246),
    }
)

# How safetensors writes the dtypes a parameter can have.
_DTYPE_NAMES = MappingProxyType({"float32": "F32", "bfloat16": "BF16", "float16": "F16"})
# The parts of the codec that playing needs; a checkpoint may hold its encoder as well.
_CODEC = "params/soundstream/"
_CODEC_PARTS = (f"{_CODEC}decoder/", f"{_CODEC}quantizer/")


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
      model: The model's name.
      parameters: How many numbers the checkpoint holds; 0 when it can't be read.
      problems: One sentence for each thing wrong.
      remarks: One sentence for each thing that is of no use, and does no harm.
    """

    model: str
    parameters: int
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(files: ModelFiles, architecture: Architecture) -> Report:
    """Checks a model's files against what the architecture looks up; see the module."""
    faults = files.faults()
    problems = [f"{path}: {fault}" for path, fault in faults.items()]
    remarks: list[str] = []
    found: Mapping[str, TensorEntry] = {}
    if files.checkpoint not in faults:
        found = read_header(files.checkpoint)
        differences = list(_differences(found, expected_parameters(architecture)))
        problems += [sentence for sentence, harmless in differences if not harmless]
        remarks += [sentence for sentence, harmless in differences if harmless]
    if faults.keys() <= {files.checkpoint}:
        problems += _style_problems(StyleEncoder(files.musiccoca_dir), architecture.is_demo)
    parameters = sum(int(np.prod(entry.shape)) for entry in found.values())
    return Report(files.name, parameters, tuple(problems), tuple(remarks))


def expected_parameters(architecture: Architecture) -> dict[str, TensorEntry]:
    """Every parameter that upstream's sampler would make, by its name in a checkpoint."""
    sampler = architecture.sampler_config().make()

    def one_step(module: Any) -> None:
        frame = sl.Sequence.from_values(jnp.zeros((1, 1, CONDITIONING_SIZE), jnp.int32))
        state = module.get_initial_state(1, frame.channel_spec, training=False, constants={})
        constants = {"temperature": jnp.ones(1), "top_k": jnp.ones(1, jnp.int32)}
        module.step_with_emits(frame, state, training=False, constants=constants)

    def init() -> Any:
        key = jax.random.PRNGKey(0)
        return sampler.init({"params": key, "random": key}, method=one_step)

    # Traced, never computed: the largest model's shapes cost no memory.
    shapes: Any = nn.meta.unbox(jax.eval_shape(init))
    flat = flax.traverse_util.flatten_dict(shapes)
    return {
        "/".join(path): TensorEntry(tuple(leaf.shape), _DTYPE_NAMES[str(leaf.dtype)])
        for path, leaf in flat.items()
    }


def _differences(
    found: Mapping[str, TensorEntry], expected: Mapping[str, TensorEntry]
) -> Iterator[tuple[str, bool]]:
    """A sentence for each difference, and whether it does no harm; by parameter name."""
    for name in sorted(found.keys() | expected.keys()):
        has, wants = found.get(name), expected.get(name)
        if has is None and wants is not None:
            yield f"missing parameter {name}: {wants.dtype} {list(wants.shape)}", False
        elif wants is None and has is not None:
            harmless = name.startswith(_CODEC) and not name.startswith(_CODEC_PARTS)
            kind = "unused" if harmless else "unexpected"
            yield f"{kind} parameter {name}: {has.dtype} {list(has.shape)}", harmless
        elif has is not None and wants is not None:
            if has.shape != wants.shape:
                shapes = f"{list(has.shape)}, expected {list(wants.shape)}"
                yield f"wrong shape of parameter {name}: {shapes}", False
            if has.dtype != wants.dtype:
                dtypes = f"{has.dtype}, expected {wants.dtype}"
                yield f"wrong dtype of parameter {name}: {dtypes}", False


def _style_problems(style: StyleEncoder, is_demo: bool) -> Iterator[str]:
    try:
        style.warm_up()
    except WeightsError as error:
        yield str(error)
        return
    for (prompt, use_mapper), golden in GOLDEN_TOKENS.items():
        tokens = tuple(style.tokenize(style.embed_text(prompt, use_mapper)).tolist())
        mapped = " with the mapper" if use_mapper else ""
        if is_demo:  # its tokens mean nothing, but they must be tokens
            if len(tokens) != STYLE_TOKENS or not all(0 <= t < CODEBOOK_SIZE for t in tokens):
                yield (
                    f"MusicCoCa gives {tokens} for {prompt!r}{mapped}, "
                    f"not {STYLE_TOKENS} tokens below {CODEBOOK_SIZE}"
                )
        elif tokens != golden:
            yield f"MusicCoCa gives {tokens} for {prompt!r}{mapped}, upstream's gives {golden}"
