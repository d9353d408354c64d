"""``python -m tools.demo_model.style.evaluate``: what the trained style model understands.

Invariant: only pieces that were never trained on are measured, with fresh captions of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tools.demo_model.style import ear, network, pairs, quantiser

PROMPTS = ("drums only", "soft ambient pad", "deep bass", "bright lead", "warm pad")
UNKNOWN = ("xyzzy", "qwrtp zzkjh", "日本の音楽 🎸", "", "Übergrößenträger", "the", "vpn invoice 42")
NEAREST = 8


def main() -> None:
    model, data = ear.Ear.load(), pairs.Pairs.load()
    rows = np.flatnonzero(data.held_out)
    style = [{k: str(v) for k, v in data.traits[row].items()} for row in rows]
    audio = np.asarray(network.audio_latent(model.parameters, data.summaries[rows, 0]))
    text = model.text(data.captions[rows, 1].tolist())
    print(f"{len(rows)} held-out pieces of {len(data.captions)}")
    _retrieval(text, audio, [s["family"] for s in style])
    _traits(text, audio, style)
    _prompts(model, audio, style)
    _blends(model, audio)
    _unknown(model, audio)
    for name, latents in (("audio", audio), ("mapped text", text)):
        rebuilt = quantiser.decode(model.tokens(latents), model.books)
        print(f"tokens rebuild {name} to {np.linalg.norm(rebuilt - latents, axis=1).mean():.4f}")


def _retrieval(text: np.ndarray, audio: np.ndarray, family: Sequence[str]) -> None:
    families = np.array(family)
    order = np.argsort(-text @ audio.T, axis=1)
    same = families[order] == families[:, None]
    rank = np.argmax(order == np.arange(len(text))[:, None], axis=1)
    chance = np.mean([np.mean(families == name) for name in families])
    print(f"nearest clip of the same family: {same[:, 0].mean():.0%} (chance {chance:.0%}),")
    print(f"  among the nearest five: {same[:, :5].any(axis=1).mean():.0%}; own clip's rank:")
    print(f"  median {np.median(rank):.0f}, in the first ten {np.mean(rank < 10):.0%}")
    by = {name: same[families == name, 0].mean() for name in sorted(set(family))}
    print("  by family:", ", ".join(f"{name} {share:.0%}" for name, share in by.items()))
    print(f"cosine of a caption and its clip: {np.mean(np.sum(text * audio, axis=1)):.2f},")
    print(f"  of any two clips {np.mean(audio @ audio.T):.2f}")


def _traits(text: np.ndarray, audio: np.ndarray, style: Sequence[Mapping[str, str]]) -> None:
    """How often the five nearest clips agree with a trait, against agreeing at random."""
    shown = []
    for name in style[0]:
        values = np.array([s[name] for s in style])
        if len(set(values)) < 2:
            continue
        of_audio = np.argsort(-(audio @ audio.T - 2 * np.eye(len(audio))), axis=1)[:, :5]
        of_text = np.argsort(-text @ audio.T, axis=1)[:, :5]
        agree = [np.mean(values[near] == values[:, None]) for near in (of_audio, of_text)]
        chance = np.mean(values[None] == values[:, None])
        shown.append(f"{name} {agree[0]:.0%}/{agree[1]:.0%} ({chance:.0%})")
    print("traits shared with the nearest five, from audio / from text (chance):")
    print("  " + ", ".join(shown))


def _prompts(model: ear.Ear, audio: np.ndarray, style: Sequence[Mapping[str, str]]) -> None:
    shown = ("family", "kit", "bass", "pad", "lead", "dynamics")
    for prompt, latent in zip(PROMPTS, model.text(PROMPTS), strict=True):
        near = np.argsort(-audio @ latent)[:NEAREST]
        print(f"{prompt}: its {NEAREST} nearest clips")
        for name in shown:
            values, counts = np.unique([style[row][name] for row in near], return_counts=True)
            ranked = sorted(zip(counts, values, strict=True), reverse=True)[:4]
            print(f"  {name}: " + ", ".join(f"{value} {count}" for count, value in ranked))
    print(
        "cosines between the prompts:\n", np.round(model.text(PROMPTS) @ model.text(PROMPTS).T, 2)
    )


def _blends(model: ear.Ear, audio: np.ndarray) -> None:
    """Of two far clips: the nearer to one in the blend, the nearer to it in space, by tokens."""
    rng = np.random.RandomState(0)
    kept = 0
    between = 0
    for _ in range(500):
        one, other = audio[rng.choice(len(audio), 2, replace=False)]
        if one @ other > 0.5:
            continue
        shares = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)[:, None]
        blends = (1 - shares) * one + shares * other
        heard = quantiser.decode(model.tokens(blends), model.books)
        kept += 1
        between += bool(np.all(np.diff(heard @ (other - one)) > 0))
    print(f"blends lie in order between their parents, read from tokens: {between} of {kept}")


def _unknown(model: ear.Ear, audio: np.ndarray) -> None:
    centre = audio.mean(axis=0) / np.linalg.norm(audio.mean(axis=0))
    latents = model.text(UNKNOWN)
    print("cosine to the middle of all clips, and to the text without words:")
    nothing = model.text([""])[0]
    for text, latent in zip(UNKNOWN, latents, strict=True):
        print(f"  {text!r}: {latent @ centre:.2f}, {latent @ nothing:.2f}")
    typical = np.median(audio @ centre)
    print(f"  (a clip's, in the median: {typical:.2f})")


if __name__ == "__main__":
    main()
