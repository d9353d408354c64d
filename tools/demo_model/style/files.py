"""The six files of the demo's ``resources/musiccoca``, from the trained parameters.

Invariant: the same ``style.npz`` gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.demo_model.style import graphs
from tools.demo_model.style.ear import PATH, Ear


def files(trained: Ear | Path = PATH) -> Mapping[str, bytes]:
    """File name to contents."""
    ear = trained if isinstance(trained, Ear) else Ear.load(trained)
    return {
        "spm.model": ear.spm,
        "text_encoder.tflite": graphs.text_encoder(ear.parameters),
        "audio_preprocessor.tflite": graphs.audio_preprocessor(),
        "music_encoder.tflite": graphs.music_encoder(ear.parameters),
        "pretrained_vector_quantizer.tflite": graphs.vector_quantizer(ear.books),
        "mapper.tflite": graphs.mapper(ear.parameters),
    }
