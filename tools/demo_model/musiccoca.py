"""Untrained stand-ins for MusicCoCa's five LiteRT models, with its inputs and outputs.

What they keep of the real ones: any text or audio has a unit embedding float32 [768], other
inputs have other embeddings, and twelve levels of real residual vector quantisation turn an
embedding into tokens. What they lack is meaning: the weights are random.

Invariant: the bytes depend on the seed in each function alone.
"""

from __future__ import annotations

import numpy as np

from tools.demo_model.tflite import Graph, Tensor

EMBEDDING_DIMS = 768
MAX_TEXT_TOKENS = 128
CLIP_SAMPLES = 160_000  # 10 s
AUDIO_SAMPLE_RATE_HZ = 16_000
RVQ_LEVELS = 12
RVQ_CODES = 1024

WORD_DIMS = 32
BOS_ID = 1

WINDOW_SAMPLES = 400  # 25 ms
BANDS = 32
LOWEST_BAND_HZ = 60.0
HIGHEST_BAND_HZ = 7_500.0
SILENCE_POWER = 1e-6  # keeps the logarithm of silence finite
FRAMES = CLIP_SAMPLES // WINDOW_SAMPLES

# 768 dimensions are quantised in 16, which keeps twelve codebooks under 1 MB.
CODE_DIMS = 16
RESIDUAL_SHRINK = 2 ** (-10 / CODE_DIMS)  # what 10 bits in 16 dimensions leave, in theory

MAPPER_RANK = 8
MAPPER_NOISE = 0.2  # norm of the noise beside an embedding of norm 1


def _normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    """float32 Gaussian; RandomState because its stream is frozen across numpy versions."""
    return (np.random.RandomState(seed).standard_normal(shape) * scale).astype(np.float32)


def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)


def _scalar(graph: Graph, value: float) -> Tensor:
    return graph.constant(np.array([value], np.float32))


def text_encoder(vocabulary_size: int) -> bytes:
    """ids int32 [1, 128], paddings float32 [1, 128] (1 at padding) to float32 [1, 768]."""
    graph = Graph()
    ids = graph.input("ids", (1, MAX_TEXT_TOKENS), np.int32)
    paddings = graph.input("paddings", (1, MAX_TEXT_TOKENS), np.float32)
    words = _normal(1, vocabulary_size, WORD_DIMS)
    words[BOS_ID] *= 0.1  # in every text: weak, yet there, so that "" has a direction too
    # Each place scales the dimensions a little differently, so that word order matters.
    places = 1.0 + _normal(2, 1, MAX_TEXT_TOKENS, WORD_DIMS, scale=0.3)
    looked_up = graph.mul(graph.gather(graph.constant(words), ids), graph.constant(places))
    ones = graph.constant(np.ones((1, MAX_TEXT_TOKENS), np.float32))
    present = graph.reshape(graph.sub(ones, paddings), (1, MAX_TEXT_TOKENS, 1))
    pooled = graph.reduce("SUM", graph.mul(looked_up, present), axis=1)
    # The norm below makes the sum a mean: only the direction counts.
    weights = _normal(3, EMBEDDING_DIMS, WORD_DIMS)
    return graph.serialise(graph.normalise(graph.dense(pooled, weights, _zeros(EMBEDDING_DIMS))))


def audio_preprocessor() -> bytes:
    """Samples float32 [1, 160000] at 16 kHz to log band powers float32 [1, 400, 32]."""
    graph = Graph()
    samples = graph.input("samples", (1, CLIP_SAMPLES), np.float32)
    framed = graph.op(
        "CONV_2D",
        (
            graph.reshape(samples, (1, CLIP_SAMPLES, 1, 1)),
            graph.constant(_band_filters()),
            graph.constant(_zeros(2 * BANDS)),
        ),
        (1, FRAMES, 1, 2 * BANDS),
        table="Conv2DOptions",
        padding=1,  # VALID
        strideH=WINDOW_SAMPLES,
        strideW=1,
    )
    parts = graph.reshape(framed, (1, FRAMES, 2, BANDS))
    power = graph.reduce("SUM", graph.mul(parts, parts), axis=2)
    audible = graph.op("MAXIMUM", (power, _scalar(graph, SILENCE_POWER)), power.shape)
    return graph.serialise(graph.op("LOG", (audible,), power.shape))


def _band_filters() -> np.ndarray:
    """Windowed cosines, then sines, of 32 bands evenly spaced in pitch: [64, 400, 1, 1]."""
    centres_hz = np.geomspace(LOWEST_BAND_HZ, HIGHEST_BAND_HZ, BANDS)
    phase = 2 * np.pi * np.outer(centres_hz, np.arange(WINDOW_SAMPLES)) / AUDIO_SAMPLE_RATE_HZ
    # A sine of amplitude 1 in the middle of a band then has power 1.
    window = np.hanning(WINDOW_SAMPLES) / (WINDOW_SAMPLES / 4)
    filters = np.concatenate([np.cos(phase), np.sin(phase)]) * window
    return filters.astype(np.float32).reshape(2 * BANDS, WINDOW_SAMPLES, 1, 1)


def music_encoder() -> bytes:
    """Log band powers float32 [1, 400, 32] to float32 [1, 768], from their mean and spread."""
    graph = Graph()
    features = graph.input("features", (1, FRAMES, BANDS), np.float32)
    mean = graph.reduce("MEAN", features, axis=1)
    deviation = graph.sub(features, graph.reshape(mean, (1, 1, BANDS)))
    spread = graph.reduce("MEAN", graph.mul(deviation, deviation), axis=1)
    summary = graph.concatenate((mean, spread), axis=1)
    # Log powers of music lie around -9 +- 3; their variance over time around 2 +- 2.
    usual = np.repeat(np.array([[-9.0, 2.0]], np.float32), BANDS, axis=1)
    scale = np.repeat(np.array([[1 / 3, 1 / 2]], np.float32), BANDS, axis=1)
    centred = graph.mul(graph.sub(summary, graph.constant(usual)), graph.constant(scale))
    bounded = graph.op("TANH", (centred,), centred.shape)
    weights = _normal(4, EMBEDDING_DIMS, 2 * BANDS)
    return graph.serialise(graph.normalise(graph.dense(bounded, weights, _zeros(EMBEDDING_DIMS))))


def vector_quantizer() -> bytes:
    """Embedding float32 [1, 768] to tokens int32 [1, 12], each 0..1023, coarse to fine."""
    graph = Graph()
    embedding = graph.input("embedding", (1, EMBEDDING_DIMS), np.float32)
    residual = graph.dense(embedding, _normal(5, CODE_DIMS, EMBEDDING_DIMS), _zeros(CODE_DIMS))
    last_axis = graph.constant(np.array(1, np.int32))
    tokens = []
    for level in range(RVQ_LEVELS):
        scale = RESIDUAL_SHRINK**level
        codes = _normal(100 + level, RVQ_CODES, CODE_DIMS, scale=scale)
        book = graph.constant(codes)
        # The nearest code maximises r.c - |c|^2 / 2.
        closeness = graph.dense(residual, book, -0.5 * np.sum(codes**2, axis=1))
        token = graph.op(
            "ARG_MAX",
            (closeness, last_axis),
            (1,),
            np.int32,
            table="ArgMaxOptions",
            outputType=2,  # INT32
        )
        tokens.append(graph.reshape(token, (1, 1)))
        residual = graph.sub(residual, graph.gather(book, token))
    return graph.serialise(graph.concatenate(tokens, axis=1))


def mapper() -> bytes:
    """Text embedding and noise, float32 [1, 768] each, to an audio-like embedding [1, 768]."""
    graph = Graph()
    embedding = graph.input("embedding", (1, EMBEDDING_DIMS), np.float32)
    noise = graph.input("noise", (1, EMBEDDING_DIMS), np.float32)
    down = graph.dense(embedding, _normal(6, MAPPER_RANK, EMBEDDING_DIMS), _zeros(MAPPER_RANK))
    bent = graph.op("TANH", (down,), down.shape)
    scale = 0.5 / np.sqrt(EMBEDDING_DIMS * MAPPER_RANK)
    up = graph.dense(
        bent, _normal(7, EMBEDDING_DIMS, MAPPER_RANK, scale=scale), _zeros(EMBEDDING_DIMS)
    )
    shake = graph.mul(noise, _scalar(graph, MAPPER_NOISE / np.sqrt(EMBEDDING_DIMS)))
    return graph.serialise(graph.add(graph.add(embedding, up), shake))
