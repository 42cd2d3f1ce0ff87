"""The compiled parts of the pixel model's decode loop, each timed on the arrays of a real step of the wavefront."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.entropy_model.pixel import compiled
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.compiled import TILE, Packed
from medzip.entropy_model.pixel.compiled_features import keep, look
from medzip.entropy_model.pixel.compiled_regression import begin_segments, learn, predict
from medzip.entropy_model.pixel.features import POSITION_BITS
from medzip.entropy_model.pixel.fitted import fit
from medzip.entropy_model.pixel.neighbourhood import SEGMENT
from medzip.exact.compiled import range_coder
from medzip.exact.compiled.setup import njit
from medzip.exact.compiled.symbols import FULL, GOOD, WORDS_PER_SAMPLE, code_batch

REPEAT, RUNS = 48, 5
_dense, _hidden_layers, _heads = compiled._dense, compiled._hidden_layers, compiled._heads
_LOWEST = np.int64(0)


def steps_table(model: Any, chunk: NDArray[Any]) -> str:
    """Markdown: nanoseconds a voxel of each step and of the whole loop, for a pixel model and a chunk (planes, rows, columns)."""
    network = Packed.of(model._network)
    low, high = int(chunk.min()), int(chunk.max()) - int(chunk.min())
    values = chunk.astype(np.int64) - low
    taps = fit(around.with_margins(values << POSITION_BITS).reshape(-1), values.shape)
    payload = compiled.encode(values, high, taps, network)
    whole = _best(lambda: compiled.decode(payload, values.shape, high, taps, network)) / values.size
    loop = compiled._Loop(values.shape, high, taps, network)
    found = _steps(loop, values.reshape(-1), high, len(payload) // 4)
    n = int(loop._step[2] - loop._step[1])
    weights = sum(layer.linear.weight.size for layer in model._network.layers)
    lines = [
        f"| step ({n} voxels, {weights:,} weights, {compiled._VARIANT.name}) | ns a voxel | share |",
        "| --- | ---: | ---: |",
    ]
    rows = [*found.items(), ("sum", sum(found.values())), ("the whole loop, decoding a chunk", whole)]
    return "\n".join([*lines, *(f"| {name} | {1e9 * each:.0f} | {each / whole:.0%} |" for name, each in rows)])


def _steps(loop: Any, flat: NDArray[np.int64], high: int, words_in_all: int) -> dict[str, float]:
    """Seconds a voxel of each step. Encoding stops in the middle of the chunk for want of words: all arrays are as there."""
    room = words_in_all // 2 + WORDS_PER_SAMPLE * loop.widest
    if loop.run(True, flat, np.empty(room, np.uint32), range_coder.new_encoder()) != FULL:
        raise ValueError("expected a chunk long enough to stop in its middle, found it coded to the end; take a larger one")
    step, first, last = (int(number) for number in loop._step)
    n = last - first
    places, planes, predicted, fitted, scales, batch = loop._seen
    known, (weight, mean, scale), sums, curve = loop._known, loop._work, loop._sums, loop._curve
    weights, biases, shifts, added, states = loop._network
    words, coder = np.empty(WORDS_PER_SAMPLE * n + 8, np.uint32), range_coder.new_encoder()
    if code_batch(True, batch, weight, mean, scale, n, _LOWEST, high, curve, words, coder) != GOOD:
        raise ValueError("expected the step's words to fit, found them too many")
    coded = range_coder.words_of(range_coder.finished(coder, words))
    rows = tuple(part[first:last] for part in loop._order)
    state, order, shape, top = loop._regression, loop._order, loop._shape, high << POSITION_BITS

    def symbols(repeat: int) -> None:
        _symbols(repeat, False, batch, weight, mean, scale, n, high, curve, coded, range_coder.new_decoder(coded))

    parts: dict[str, Callable[[int], Any]] = {
        "prediction: solving": lambda r: _solving(r, state, order, first, last, step, shape),
        "prediction": lambda r: _predicting(r, state, known[0], places, order, first, n, step, top, predicted),
        "features": lambda r: _features(r, known, places, planes, n, loop._chunk, predicted, states[0], fitted, scales),
        "network, hidden layers": lambda r: _hidden(r, n, weights, biases, shifts, added, states),
        "network, last layer": lambda r: _last(r, n, weights[-1], biases[-1], states[0], states[-1], sums),
        "heads: mixtures from sums": lambda r: _all_heads(r, sums, shifts[-1], n, predicted, scales, weight, mean, scale),
        "symbols and range decoder": symbols,
        "keeping": lambda r: _keeping(r, known, places, predicted, fitted, batch, rows, step, n, shape, flat),
        "learning": lambda r: _learning(r, state, known[0], places, first, n, step),
    }
    return {name: _best(lambda part=part: part(REPEAT)) / REPEAT / n for name, part in parts.items()}  # type: ignore[misc]  # of a lambda with a default


def _best(work: Callable[[], Any]) -> float:
    """Seconds of CPU time, which other processes do not lengthen much, after a first run that compiles."""
    work()
    found = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


@njit
def _solving(repeat: Any, state: Any, order: Any, first: Any, last: Any, step: Any, shape: Any) -> None:
    _, rows, columns = shape
    # Segments begin with one of so many steps.
    for _ in range(repeat // SEGMENT):
        begin_segments(state, order, first, last, step, rows, columns)


@njit
def _predicting(
    repeat: Any, state: Any, values: Any, places: Any, order: Any, first: Any, n: Any, step: Any, top: Any, predicted: Any
) -> None:
    for _ in range(repeat):
        predict(state, values, places, order, first, n, step, top, predicted)


@njit
def _learning(repeat: Any, state: Any, values: Any, places: Any, first: Any, n: Any, step: Any) -> None:
    for _ in range(repeat):
        learn(state, values, places, first, n, step)


@njit
def _features(
    repeat: Any, known: Any, places: Any, planes: Any, n: Any, chunk: Any, predicted: Any, features: Any, fitted: Any, scales: Any
) -> None:
    values, wrong, wrong_fitted = known
    near, near_second, error_places, taps, taps_in_plane, top, inverse_top, code_of_top = chunk
    for _ in range(repeat):
        for start in range(0, n, TILE):
            look(
                values, wrong, wrong_fitted, places[start:], planes[start:], min(TILE, n - start), near, near_second,
                error_places, taps, taps_in_plane, top, inverse_top, code_of_top, predicted[start:], features, fitted[start:],
                scales[start:],
            )  # fmt: skip


@njit
def _hidden(repeat: Any, n: Any, weights: Any, biases: Any, shifts: Any, added: Any, states: Any) -> None:
    for _ in range(repeat):
        for start in range(0, n, TILE):
            _hidden_layers(weights, biases, shifts, added, states, min(TILE, n - start))


@njit
def _last(repeat: Any, n: Any, weights: Any, bias: Any, features: Any, end: Any, sums: Any) -> None:
    for _ in range(repeat):
        for start in range(0, n, TILE):
            count = min(TILE, n - start)
            compiled.append_features(features, count, end)
            _dense(end, weights, bias, count, sums)


@njit
def _all_heads(
    repeat: Any, sums: Any, shifts: Any, n: Any, predicted: Any, scales: Any, weight: Any, mean: Any, scale: Any
) -> None:
    for _ in range(repeat):
        for start in range(0, n, TILE):
            _heads(sums, shifts, min(TILE, n - start), start, predicted, scales, weight, mean, scale)


@njit
def _symbols(
    repeat: Any, encoding: Any, batch: Any, weight: Any, mean: Any, scale: Any, n: Any, high: Any, curve: Any, words: Any,
    coder: Any,
) -> None:  # fmt: skip
    for _ in range(repeat):
        code_batch(encoding, batch, weight, mean, scale, n, _LOWEST, high, curve, words, coder.copy())


@njit
def _keeping(
    repeat: Any, known: Any, places: Any, predicted: Any, fitted: Any, batch: Any, of_rows: Any, step: Any, n: Any, shape: Any,
    samples: Any,
) -> None:  # fmt: skip
    values, wrong, wrong_fitted = known
    plane_of, row_of, begin = of_rows
    _, rows, columns = shape
    for _ in range(repeat):
        for i in range(n):
            plane, row, column = plane_of[i], row_of[i], step - begin[i]
            samples[(plane * rows + row) * columns + column] = batch[i]
            position = batch[i] << POSITION_BITS
            keep(values, places[i], position, row, column, rows, columns)
            keep(wrong, places[i], position - predicted[i], row, column, rows, columns)
            keep(wrong_fitted, places[i], position - fitted[i], row, column, rows, columns)
