"""Claim: for equal conditioning and key, codes and samples equal the stock system's, in float32.

    python -m bench.parity --model mrt2_small

Tests show this on the demo; this script shows it on the shapes of a real model, with random
weights.
Audio is compared twice: with upstream's own transposed convolutions (equal to the last bit) and
with ours (at most one int16 step apart).
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from magenta_rt.musiccoca import MusicCoCa

from bench.stock import stock_system
from bench.weights import DEMO_HOME, files_in, model_home
from magenta_bento import conditioning
from magenta_bento.controls import STYLE_LEVELS
from magenta_bento.model.architecture import ARCHITECTURES
from magenta_bento.model.jax_model import JaxModel
from magenta_bento.model.protocol import StepInputs
from magenta_bento.weights.catalog import ModelFiles

STYLE = np.arange(STYLE_LEVELS, dtype=np.int32) * 80


def codes_of(state: object) -> np.ndarray:
    """int32 [B, 12], the codes of the last step."""
    return np.asarray(state[0][1].values)[:, 0]  # type: ignore[index]


def ours(name: str, files: ModelFiles, frames: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [frames, 12] and samples int16 [frames * 1920, 2]."""
    model = JaxModel(
        ARCHITECTURES[name],
        files,
        max_frames=1,
        compute_dtype=jnp.dtype("float32"),
        exact_codec=exact,
    )
    model.compile([1])
    state = model.insert(model.init_state(1), 0, seed=0)
    one = np.ones((1, 1), np.float32)
    tokens = conditioning.rows(STYLE[None])[None]
    inputs = StepInputs(tokens, 1.3 * one, np.full((1, 1), 40, np.int32), np.ones(1, np.bool_))
    codes, pcm = [], []
    for _ in range(frames):
        state, audio = model.step(state, inputs)
        pcm.append(audio.fetch()[0])
        codes.append(codes_of(state)[0])
    return np.stack(codes), np.concatenate(pcm)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mrt2_small")
    parser.add_argument("--frames", type=int, default=50)
    options = parser.parse_args()

    with model_home(options.model) as home:
        style = MusicCoCa(DEMO_HOME / "resources" / "musiccoca")
        stock = stock_system(options.model, home, jnp.float32, style_model=style)
        prompt = {"mulan_tokens_25hz": STYLE.tolist()}
        state, codes, pcm = None, [], []
        for _ in range(options.frames):
            wave, state = stock.generate(prompt, frames=1, state=state)
            pcm.append(np.round(wave.samples * 32768).astype(np.int16))
            codes.append(codes_of(state)[0])
        files = files_in(home, options.model)
        for exact in (True, False):
            our_codes, our_pcm = ours(options.model, files, options.frames, exact)
            reference = np.concatenate(pcm).astype(np.float64)
            error = our_pcm - reference
            apart = int(np.abs(error).max())
            with np.errstate(divide="ignore"):
                snr_db = 10 * np.log10((reference**2).sum() / (error**2).sum())
            print(
                f"{options.model}, {options.frames} frames, {jax.devices()[0].device_kind}, codec"
                f" {'as upstream' if exact else 'ours'}: codes"
                f" {'equal' if (our_codes == np.stack(codes)).all() else 'DIFFER'},"
                f" samples at most {apart} apart, SNR {snr_db:.1f} dB"
            )


if __name__ == "__main__":
    main()
