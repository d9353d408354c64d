"""The five LiteRT models, from trained parameters, with MusicCoCa's inputs and outputs.

Invariant: the bytes depend on the parameters alone, and what a graph computes is what
:mod:`tools.demo_model.style.network` and :mod:`tools.demo_model.style.quantiser` compute.
"""

from __future__ import annotations

import numpy as np

from tools.demo_model.style import network, spectrum
from tools.demo_model.style.network import EMBEDDING_DIMS, LATENT_DIMS, Parameters
from tools.demo_model.tflite import Graph, Tensor


def _constant(graph: Graph, value: object) -> Tensor:
    return graph.constant(np.atleast_1d(np.asarray(value, np.float32)))


def _dense(graph: Graph, parameters: Parameters, name: str, x: Tensor) -> Tensor:
    weights = np.asarray(parameters[name], np.float32).T
    return graph.dense(x, weights, np.asarray(parameters[f"{name}/bias"], np.float32))


def _embedding(graph: Graph, latent: Tensor) -> Tensor:
    return graph.dense(latent, network.image(), np.zeros(EMBEDDING_DIMS, np.float32))


def _latent(graph: Graph, embedding: Tensor) -> Tensor:
    return graph.dense(embedding, network.image().T, np.zeros(LATENT_DIMS, np.float32))


def text_encoder(parameters: Parameters) -> bytes:
    """ids int32 [1, 128], paddings float32 [1, 128] (1 at padding) to float32 [1, 768]."""
    graph, length = Graph(), network.MAX_TEXT_TOKENS
    ids = graph.input("ids", (1, length), np.int32)
    paddings = graph.input("paddings", (1, length), np.float32)
    present = graph.reshape(
        graph.sub(graph.constant(np.ones((1, length), np.float32)), paddings), (1, length, 1)
    )
    words = graph.mul(graph.gather(_constant(graph, parameters["text/words"]), ids), present)
    # One empty place more, after which the last word is a phrase too.
    end = graph.constant(np.zeros((1, 1, network.WORD_DIMS), np.float32))
    padded = graph.concatenate((words, end), axis=1)
    line = graph.reshape(padded, (1, length + 1, 1, network.WORD_DIMS))
    pairs = np.asarray(parameters["text/phrase"], np.float32)
    filters = pairs.T.reshape(network.PHRASE_DIMS, 2, 1, network.WORD_DIMS)
    phrases = graph.unary("RELU", graph.convolve(line, filters))
    heard = graph.reshape(phrases, (1, length, network.PHRASE_DIMS))
    weights = graph.constant(network.places().reshape(1, length, 1))
    weighted = graph.mul(heard, graph.mul(weights, present))
    pooled = graph.normalise(graph.reduce("SUM", weighted, axis=1))
    scaled = graph.mul(pooled, _constant(graph, network.PHRASE_DIMS**0.5))
    hidden = graph.unary("RELU", _dense(graph, parameters, "text/hidden", scaled))
    latent = graph.normalise(_dense(graph, parameters, "text/latent", hidden))
    return graph.serialise(graph.normalise(_embedding(graph, latent)))


def audio_preprocessor() -> bytes:
    """Samples float32 [1, 160000] at 16 kHz to log band powers float32 [1, 499, 48]."""
    graph = Graph()
    samples = graph.input("samples", (1, spectrum.CLIP_SAMPLES), np.float32)
    line = graph.reshape(samples, (1, spectrum.CLIP_SAMPLES, 1, 1))
    filters = spectrum.band_filters().reshape(-1, spectrum.WINDOW_SAMPLES, 1, 1)
    framed = graph.convolve(line, filters, stride=spectrum.HOP_SAMPLES)
    parts = graph.reshape(framed, (1, spectrum.FRAMES, 2, spectrum.BANDS))
    power = graph.reduce("SUM", graph.mul(parts, parts), axis=2)
    floor = _constant(graph, spectrum.SILENCE_POWER)
    audible = graph.op("MAXIMUM", (power, floor), power.shape)
    return graph.serialise(graph.unary("LOG", audible))


def music_encoder(parameters: Parameters) -> bytes:
    """Log band powers float32 [1, 499, 48] to float32 [1, 768]."""
    graph = Graph()
    features = graph.input("features", (1, spectrum.FRAMES, spectrum.BANDS), np.float32)
    summary = _summary(graph, features)
    centred = graph.sub(summary, graph.constant(_row(parameters["audio/mean"])))
    usual = graph.mul(centred, graph.constant(_row(parameters["audio/scale"])))
    low = graph.op("MAXIMUM", (usual, _constant(graph, -4.0)), usual.shape)
    bounded = graph.op("MINIMUM", (low, _constant(graph, 4.0)), usual.shape)
    hidden = graph.unary("RELU", _dense(graph, parameters, "audio/first", bounded))
    hidden = graph.unary("RELU", _dense(graph, parameters, "audio/second", hidden))
    latent = graph.normalise(_dense(graph, parameters, "audio/latent", hidden))
    return graph.serialise(graph.normalise(_embedding(graph, latent)))


def _row(values: object) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(1, -1)


def _summary(graph: Graph, features: Tensor) -> Tensor:
    """float32 [1, 499, 48] to [1, 416]: :func:`spectrum.summary`, operator by operator."""
    frames, bands = spectrum.FRAMES, spectrum.BANDS
    groups, rates = spectrum.GROUPS, len(spectrum.PULSES_HZ)
    table = graph.reshape(features, (frames, bands))
    scale = _constant(graph, 1 / spectrum.LOG_POWER_SPREAD)
    scaled = graph.mul(graph.sub(table, _constant(graph, spectrum.USUAL_LOG_POWER)), scale)

    mean = graph.reshape(graph.reduce("MEAN", scaled, axis=0), (1, bands))
    deviation = graph.sub(scaled, mean)
    spread = _root_mean_square(graph, deviation)
    later = graph.slice(scaled, (1, 0), (frames - 1, bands))
    earlier = graph.slice(scaled, (0, 0), (frames - 1, bands))
    rise = graph.unary("RELU", graph.sub(later, earlier))
    onsets = graph.reshape(graph.reduce("MEAN", rise, axis=0), (1, bands))
    strong = _root_mean_square(graph, rise)

    parted = graph.reshape(rise, (frames - 1, groups, bands // groups))
    grouped = graph.transpose(graph.reduce("MEAN", parted, axis=2))
    none = np.zeros(2 * rates, np.float32)
    parts = graph.reshape(graph.dense(grouped, spectrum.pulse_filters(), none), (groups, 2, rates))
    power = graph.reduce("SUM", graph.mul(parts, parts), axis=1)
    pulses = graph.unary("LOG", graph.add(power, _constant(graph, spectrum.PULSE_FLOOR)))
    row = graph.reshape(pulses, (1, groups * rates))
    return graph.concatenate((mean, spread, onsets, strong, row), axis=1)


def _root_mean_square(graph: Graph, x: Tensor) -> Tensor:
    mean = graph.reduce("MEAN", graph.mul(x, x), axis=0)
    root = graph.unary("SQRT", graph.add(mean, _constant(graph, spectrum.SPREAD_FLOOR)))
    return graph.reshape(root, (1, x.shape[1]))


def vector_quantizer(books: np.ndarray) -> bytes:
    """Embedding float32 [1, 768] to tokens int32 [1, 12], each 0..1023, coarse to fine."""
    graph = Graph()
    residual = _latent(graph, graph.input("embedding", (1, EMBEDDING_DIMS), np.float32))
    last_axis = graph.constant(np.array(1, np.int32))
    tokens = []
    for codes in books.astype(np.float32):
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


def mapper(parameters: Parameters) -> bytes:
    """Text embedding and noise, float32 [1, 768] each, to an audio-like embedding [1, 768]."""
    graph = Graph()
    embedding = graph.input("embedding", (1, EMBEDDING_DIMS), np.float32)
    noise = graph.input("noise", (1, EMBEDDING_DIMS), np.float32)
    latent = _latent(graph, embedding)
    hidden = graph.unary("RELU", _dense(graph, parameters, "mapper/hidden", latent))
    moved = graph.add(latent, _dense(graph, parameters, "mapper/latent", hidden))
    shake = graph.mul(_latent(graph, noise), _constant(graph, network.NOISE_SCALE))
    return graph.serialise(_embedding(graph, graph.add(graph.normalise(moved), shake)))
