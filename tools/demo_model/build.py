"""``python -m tools.demo_model.build``: makes the demo model's files from nothing but code.

1. The vocabulary and MusicCoCa's five models.
2. The parameters, rendered once quietly to measure them, then set to the wanted loudness.
3. A table of what was made and how loud it is.

Invariant: on one machine two runs write identical bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import sentencepiece

from magenta_bento.model.architecture import ARCHITECTURES
from tools.demo_model import checkpoint, listen, musiccoca, vocabulary

HOME = Path(__file__).parents[2] / "magenta_bento" / "weights" / "demo"
TARGET_DBFS = -20.0  # louder, and the peaks of noise clip
MEASURED_FRAMES = 25
MEASURING_GAIN = 0.1  # far from clipping, so that loudness is proportional to gain


def musiccoca_files() -> Mapping[str, bytes]:
    """File name to contents, for ``resources/musiccoca``."""
    words = vocabulary.train()
    size = sentencepiece.SentencePieceProcessor(model_proto=words).vocab_size()
    return {
        "spm.model": words,
        "text_encoder.tflite": musiccoca.text_encoder(size),
        "audio_preprocessor.tflite": musiccoca.audio_preprocessor(),
        "music_encoder.tflite": musiccoca.music_encoder(),
        "pretrained_vector_quantizer.tflite": musiccoca.vector_quantizer(),
        "mapper.tflite": musiccoca.mapper(),
    }


def main() -> None:
    resources = HOME / "resources" / "musiccoca"
    resources.mkdir(parents=True, exist_ok=True)
    for name, contents in musiccoca_files().items():
        (resources / name).write_bytes(contents)

    demo = ARCHITECTURES["demo"]
    parameters = checkpoint.amplified(checkpoint.untrained(demo), MEASURING_GAIN)
    quiet = listen.render(demo, parameters, resources, frames=MEASURED_FRAMES)
    level_dbfs = np.median(listen.dbfs(quiet))
    gain = 10 ** ((TARGET_DBFS - level_dbfs) / 20)
    # Rounded, so that the last bit of a measurement does not change the file.
    parameters = checkpoint.amplified(parameters, float(f"{gain:.3g}"))
    path = HOME / "checkpoints" / demo.checkpoint_name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(safetensors.numpy.save(parameters))

    _report(parameters, listen.render(demo, parameters, resources))


def _report(parameters: checkpoint.Parameters, pcm: np.ndarray) -> None:
    files = sorted(path for path in HOME.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size:>10,} bytes  {path.relative_to(HOME)}")
    print(f"{sum(path.stat().st_size for path in files):>10,} bytes  in all")
    print(f"{sum(value.size for value in parameters.values()):>10,} parameters\n")
    print(f"RMS, dBFS, of {pcm.shape[2] / 48_000:.1f} s" + " " * 14 + "seed 0   seed 1   seed 2")
    for prompt, row in zip(listen.PROMPTS, listen.dbfs(pcm), strict=True):
        print(f"  {prompt:<34}" + "".join(f"{level:>7.1f}  " for level in row))
    clipped = np.mean(np.abs(pcm.astype(np.int32)) >= np.iinfo(np.int16).max)
    print(f"{clipped:.2%} of samples clip")


if __name__ == "__main__":
    main()
