"""The pixel model as one compiled loop: features, network, mixtures, symbols and range coder, a step of the wavefront at a time.

The same integers and the same words as `reference.py` with `medzip.exact.symbols`; the global lock is not held meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import interrupts
from medzip.entropy_model import wavefront
from medzip.entropy_model.pixel import compiled_regression as regression
from medzip.entropy_model.pixel import neighbourhood as around
from medzip.entropy_model.pixel.compiled_features import chunk_constants, keep, look, place_of, rows_of_step
from medzip.entropy_model.pixel.compiled_regression import begin_segments, learn, predict
from medzip.entropy_model.pixel.features import FEATURES, POSITION_BITS
from medzip.entropy_model.pixel.neighbourhood import SEGMENT
from medzip.entropy_model.pixel.network import ACTIVATION_BITS, MEAN_BITS, MEAN_REACH, OCTAVES, Layer, Network
from medzip.errors import ArchiveDamagedError
from medzip.exact import mixture as mixtures
from medzip.exact.compiled import range_coder
from medzip.exact.compiled.dense import OUTPUTS, Variant, aligned_zeros, padded
from medzip.exact.compiled.setup import njit
from medzip.exact.compiled.symbols import DAMAGED, FULL, WORDS_PER_SAMPLE, code_batch, curve_of
from medzip.exact.kernels import compiled_variant
from medzip.exact.mixture import MEAN_MAX, SCALE_CODES, SIGMA
from medzip.exact.tables import INVERSE_OCTAVE

Ints = NDArray[np.int64]

PAUSED = 3
STEPS_AT_A_TIME = 256
TILE = 64
"""So many samples pass through the network together: what they need stays in the second-level cache."""

_CHOSEN = compiled_variant()
if _CHOSEN is None:
    raise ImportError("no compiled linear layer gave the known answers")
_VARIANT: Variant = _CHOSEN
_dense, _dense_hidden = _VARIANT.dense, _VARIANT.dense_hidden
_SIGMA, _INVERSE = SIGMA.copy(), INVERSE_OCTAVE.copy()
_FINER = mixtures.POSITION_BITS - POSITION_BITS
_REACH = MEAN_REACH << MEAN_BITS
_LOWEST = np.int64(0)


@dataclass(frozen=True)
class Packed:
    """A network as compiled code takes it: for each layer weights, biases and shifts, and whether its input is added."""

    weights: tuple[NDArray[Any], ...]
    biases: tuple[NDArray[np.int32], ...]
    shifts: tuple[NDArray[np.int32], ...]
    added: tuple[bool, ...]
    mixtures: int

    @classmethod
    def of(cls, network: Network) -> Packed:
        packed = [_VARIANT.pack(layer.linear) for layer in network.layers]
        linears = [layer.linear for layer in network.hidden]
        return cls(
            tuple(weights for weights, _ in packed),
            tuple(bias for _, bias in packed),
            tuple(_shifts(layer) for layer in network.layers),
            (*(i > 0 and linear.inputs == linear.outputs for i, linear in enumerate(linears)), False),
            network.mixtures,
        )

    def states(self) -> tuple[NDArray[np.int8], ...]:
        """A tile of activations for the input of each layer."""
        widths = [weights.shape[1] * weights.shape[3] for weights in self.weights]
        return tuple(aligned_zeros((TILE, width), np.int8) for width in widths)


def _shifts(layer: Layer) -> NDArray[np.int32]:
    shifts = np.zeros(padded(layer.linear.outputs, OUTPUTS), np.int32)
    shifts[: layer.linear.outputs] = layer.shift
    return shifts


def suits(network: Network) -> bool:
    """Whether the compiled linear layers give known answers for layers of these sizes too."""
    return compiled_variant(network.shapes) is _CHOSEN


def encode(samples: Ints, high: int, taps: tuple[Ints, Ints], network: Packed) -> bytes:
    """The coded samples (planes, rows, columns), 0..high."""
    flat = np.ascontiguousarray(samples, np.int64).reshape(-1)
    words, coder = np.empty(max(len(flat) // 2, 1 << 12), np.uint32), range_coder.new_encoder()
    loop = _Loop(samples.shape, high, taps, network)
    while loop.run(True, flat, words, coder) == FULL:
        words = np.concatenate([words, np.empty(len(words) + WORDS_PER_SAMPLE * loop.widest, np.uint32)])
    return range_coder.finished(coder, words)


def decode(payload: bytes, shape: tuple[int, int, int], high: int, taps: tuple[Ints, Ints], network: Packed) -> Ints:
    """The samples that `encode` coded. Raises ArchiveDamagedError where the payload leads to none."""
    words = range_coder.words_of(payload)
    flat = np.zeros(shape[0] * shape[1] * shape[2], np.int64)
    if _Loop(shape, high, taps, network).run(False, flat, words, range_coder.new_decoder(words)) == DAMAGED:
        raise ArchiveDamagedError(
            "coded payload: expected symbols of the chunk's model, found words that no encoder writes; "
            "restore the archive from a copy"
        )
    return flat.reshape(shape)


class _Loop:
    """What the compiled loop keeps of a chunk, so that it can go on where it stopped."""

    def __init__(self, shape: tuple[int, int, int], high: int, taps: tuple[Ints, Ints], network: Packed) -> None:
        planes, rows, columns = shape
        top = high << POSITION_BITS
        self._high, self._shape = high, shape
        size = planes * around.plane_stride(rows, columns) + around.RUN
        self._known = tuple(np.zeros(size, np.int32 if top < 1 << 24 else np.int64) for _ in range(3))
        self._order = around.rows_in_order(shape)
        self._chunk = chunk_constants(rows, columns, taps, top)
        self._network = (network.weights, network.biases, network.shifts, network.added, network.states())
        self.widest = wavefront.widest(self._order, columns)
        self._regression = regression.new_state(shape, self.widest)
        n, k = padded(self.widest, TILE), network.mixtures
        self._step = np.zeros(3, np.int64)
        self._work = tuple(np.zeros((n, k), np.int64) for _ in range(3))
        self._seen = tuple(np.zeros(n, np.int64) for _ in range(6))
        self._sums = aligned_zeros((TILE, network.weights[-1].shape[0] * network.weights[-1].shape[2]), np.int32)
        self._curve = curve_of("logistic")

    def run(self, encoding: bool, samples: Ints, words: NDArray[np.uint32], coder: NDArray[np.uint64]) -> int:
        while (result := self._part(encoding, samples, words, coder)) == PAUSED:
            interrupts.check()
        return result

    def _part(self, encoding: bool, samples: Ints, words: NDArray[np.uint32], coder: NDArray[np.uint64]) -> int:
        return int(
            _run(
                encoding, samples, words, coder, self._step, self._shape, self._high, self._known, self._order, self._chunk,
                self._regression, *self._network, self._sums, self._work, self._seen, self._curve,
            )
        )  # fmt: skip


@njit
def _run(
    encoding: Any, samples: Any, words: Any, coder: Any, state: Any, shape: Any, high: Any, known: Any, order: Any, chunk: Any,
    fitting: Any, weights: Any, biases: Any, shifts: Any, added: Any, states: Any, sums: Any, work: Any, seen: Any, curve: Any,
) -> Any:  # fmt: skip
    """Goes on with step state[0], whose rows are state[1] to state[2]; gives GOOD, FULL (words), DAMAGED or PAUSED."""
    _, rows, columns = shape
    values, wrong, wrong_fitted = known
    plane_of, row_of, begin = order
    weight, mean, scale = work
    places, planes, predicted, fitted, scales, batch = seen
    step, first, last = state
    pause = step + STEPS_AT_A_TIME
    while first < len(begin):
        if step == pause:
            state[0], state[1], state[2] = step, first, last
            return PAUSED
        first, last = rows_of_step(begin, columns, step, first, last)
        n = last - first
        for i in range(n):
            plane, row, column = plane_of[first + i], row_of[first + i], step - begin[first + i]
            planes[i] = plane
            places[i] = place_of(plane, row, column, rows, columns)
            if encoding:
                batch[i] = samples[(plane * rows + row) * columns + column]
        if step % SEGMENT == 0:
            begin_segments(fitting, order, first, last, step, rows, columns)
        predict(fitting, values, places, order, first, n, step, high << POSITION_BITS, predicted)
        _mixtures(
            values, wrong, wrong_fitted, places, planes, n, chunk, weights, biases, shifts, added, states, sums,
            predicted, fitted, scales, weight, mean, scale,
        )  # fmt: skip
        result = code_batch(encoding, batch, weight, mean, scale, n, _LOWEST, high, curve, words, coder)
        if result != 0:
            state[0], state[1], state[2] = step, first, last
            return result
        for i in range(n):
            plane, row, column = plane_of[first + i], row_of[first + i], step - begin[first + i]
            if not encoding:
                samples[(plane * rows + row) * columns + column] = batch[i]
            position = batch[i] << POSITION_BITS
            keep(values, places[i], position, row, column, rows, columns)
            keep(wrong, places[i], position - predicted[i], row, column, rows, columns)
            keep(wrong_fitted, places[i], position - fitted[i], row, column, rows, columns)
        learn(fitting, values, places, first, n, step)
        step += 1
    return 0


@njit
def _mixtures(
    values: Any, wrong: Any, wrong_fitted: Any, places: Any, planes: Any, n: Any, chunk: Any, weights: Any, biases: Any,
    shifts: Any, added: Any, states: Any, sums: Any, predicted: Any, fitted: Any, scales: Any, weight: Any, mean: Any, scale: Any,
) -> None:  # fmt: skip
    """Scale codes and mixtures of the n samples of a step, whose predictions are known."""
    near, near_second, error_places, taps, taps_in_plane, top, inverse_top, code_of_top = chunk
    features, end = states[0], states[len(states) - 1]
    for start in range(0, n, TILE):
        count = min(TILE, n - start)
        look(
            values, wrong, wrong_fitted, places[start:], planes[start:], count, near, near_second, error_places, taps,
            taps_in_plane, top, inverse_top, code_of_top, predicted[start:], features, fitted[start:], scales[start:],
        )  # fmt: skip
        _hidden_layers(weights, biases, shifts, added, states, count)
        append_features(features, count, end)
        _dense(end, weights[len(weights) - 1], biases[len(weights) - 1], count, sums)
        _heads(sums, shifts[len(weights) - 1], count, start, predicted, scales, weight, mean, scale)


@njit
def append_features(features: Any, count: Any, end: Any) -> None:
    """The last layer sees them behind its own input."""
    # numba would ask each index of unknown sign whether it counts from the end.
    width = np.uint64(end.shape[1] - FEATURES)
    for i in range(count):
        for j in range(FEATURES):
            end[i, width + np.uint64(j)] = features[i, j]


@njit
def _hidden_layers(weights: Any, biases: Any, shifts: Any, added: Any, states: Any, count: Any) -> None:
    """From the features in states[0], the first `count` samples of all other states."""
    for layer in range(len(weights) - 1):
        if added[layer]:
            _dense_hidden(states[layer], weights[layer], biases[layer], shifts[layer], states[layer], count, states[layer + 1])
        else:
            _dense_hidden(states[layer], weights[layer], biases[layer], shifts[layer], None, count, states[layer + 1])


@njit
def _heads(
    sums: Any, shifts: Any, count: Any, start: Any, predicted: Any, scales: Any, weight: Any, mean: Any, scale: Any
) -> None:
    """Mixtures of `count` samples from the last layer's sums: `Network.mixture`."""
    k = weight.shape[1]
    less_weight = 0
    while (1 << less_weight) < k:
        less_weight += 1
    for i in range(count):
        at = start + i
        sigma = _SIGMA[min(max(scales[at], 0), SCALE_CODES - 1)]
        largest = np.int64(-(1 << 40))
        for j in range(k):
            weight[at, j] = _rounded(sums[i, j], shifts[j])
            largest = max(largest, weight[at, j])
        for j in range(k):
            less = largest - weight[at, j]
            weight[at, j] = _INVERSE[less & 15] >> ((less >> 4) + less_weight) if less < 16 * OCTAVES else 0
            offset = _rounded(sums[i, k + j], shifts[k + j] - (MEAN_BITS - ACTIVATION_BITS))
            offset = (min(max(offset, -_REACH), _REACH) * sigma) >> MEAN_BITS
            mean[at, j] = min(max((predicted[at] << _FINER) + offset, -MEAN_MAX), MEAN_MAX)
            scale[at, j] = min(max(scales[at] + _rounded(sums[i, 2 * k + j], shifts[2 * k + j]), 0), SCALE_CODES - 1)


@njit
def _rounded(total: Any, shift: Any) -> Any:
    return (np.int64(total) + ((np.int64(1) << np.int64(shift)) >> 1)) >> np.int64(shift)
