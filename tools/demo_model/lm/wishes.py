"""The ways in which a listener might ask for each piece: style tokens, by sound and by words.

Invariant: as served, but for a little noise, since no two prompts say quite the same; the first
way is the sound alone, without noise.
"""

from __future__ import annotations

import numpy as np

from tools.demo_model.lm.pieces import Pieces
from tools.demo_model.style import network
from tools.demo_model.style.ear import Ear

BY_SOUND = 2  # of the ways; the others are captions
SHAKE = 0.12  # norm of the noise on a latent, which is of norm 1
CHUNK = 1_024  # captions at once


def tokens(pieces: Pieces, ear: Ear, seed: int) -> np.ndarray:
    """Style tokens int16 [P, ways, 12]."""
    count, styles, clips, size = pieces.summaries.shape
    heard = network.audio_latent(ear.parameters, pieces.summaries.reshape(-1, size))
    heard = np.asarray(heard).reshape(count, styles, clips, -1).mean(axis=2)
    texts = pieces.captions.ravel().tolist()
    asked = np.concatenate([ear.text(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)])
    asked = asked.reshape(count, styles, -1, asked.shape[-1])
    by_style = np.concatenate([np.repeat(heard[:, :, None], BY_SOUND, axis=2), asked], axis=2)
    # As the service blends prompts: a mean that is not made a unit again.
    latents = np.einsum("ps,pswd->pwd", pieces.weights, by_style)
    noise = np.random.RandomState(seed).standard_normal(latents.shape)
    noise *= SHAKE / latents.shape[-1] ** 0.5
    noise[:, 0] = 0
    flat = (latents + noise).reshape(-1, latents.shape[-1]).astype(np.float32)
    return ear.tokens(flat).reshape(*latents.shape[:2], -1).astype(np.int16)
