"""The exact language model as one compiled loop: features, network, mixtures, symbols and range coder, step by step.

The same integers and the same words as `reference.py` with `medzip.exact.symbols`; the global lock is not held meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import interrupts
from medzip.entropy_model.llm.offsets import (
    IN_SLICE,
    NEAREST,
    NEIGHBOURS,
    NORTH,
    NORTH_EAST,
    NORTH_WEST,
    SLICE_BEFORE,
    WEST,
)
from medzip.entropy_model.llm_exact import arithmetic, features, network
from medzip.entropy_model.llm_exact.compiled_layers import ATTENTION, VARIANT, embed_rows, head_rows, pass_layer
from medzip.entropy_model.llm_exact.network import Network, score_shift
from medzip.entropy_model.llm_exact.stacks import Known, Runs, groups
from medzip.errors import ArchiveDamagedError
from medzip.exact.compiled import range_coder
from medzip.exact.compiled.attention import LANES_MAX, ROWS
from medzip.exact.compiled.dense import INPUTS, OUTPUTS, aligned_zeros, padded
from medzip.exact.compiled.setup import njit
from medzip.exact.compiled.symbols import DAMAGED, FULL, WORDS_PER_SAMPLE, code_batch, curve_of
from medzip.exact.kernels import compiled_variant
from medzip.exact.mixture import MEAN_MAX, POSITION_BITS, SCALE_CODES, SMALLEST_SCALE_EXPONENT
from medzip.exact.tables import INVERSE_OCTAVE
from medzip.stacks import PLANES_PER_STACK

Ints = NDArray[np.int64]

PAUSED = 3
STEPS_AT_A_TIME = 64
TILE = 64
"""So many voxels pass through the network together: what they need stays in the second-level cache."""

_NEAREST = np.array(NEAREST, np.int64)
_SECOND = IN_SLICE + len(SLICE_BEFORE)
_NEIGHBOURS, _IN_SLICE = len(NEIGHBOURS), IN_SLICE
_W, _N, _NE, _NW = WEST, NORTH, NORTH_EAST, NORTH_WEST
_UNIT_BITS, _DEVIATION, _FLAG, _EXPONENT_MAX = features.UNIT_BITS, features.DEVIATION, features.FLAG, features.EXPONENT_MAX
_BYTE_MAX = np.int64(features.BYTE_MAX)
_INVERSE = INVERSE_OCTAVE.copy()
_OCTAVES, _MEAN_REACH = network.OCTAVES, np.int64(network.MEAN_REACH)
_LEAST, _MOST = network.DEVIATION_LEAST, network.DEVIATION_MOST
_SMALLEST = SMALLEST_SCALE_EXPONENT
_LOWEST = np.int64(0)


@dataclass(frozen=True)
class Packed:
    """A network as compiled code takes it."""

    embed: tuple[Any, ...]
    layers: tuple[Any, ...]
    head: tuple[Any, ...]
    angles: tuple[NDArray[np.int32], NDArray[np.int32]]
    layer_count: int
    heads: int
    size: int
    hidden: int
    inner: int
    patch: int
    positions: int
    mixtures: int

    @classmethod
    def of(cls, made: Network) -> Packed:
        tables = tuple(np.ascontiguousarray(table) for table in (made.row, made.column, made.channel))
        parts = [(layer.qkv, layer.out, layer.gate_up, layer.down) for layer in made.layers]
        packed = [[VARIANT.pack(scaled.linear) for scaled in of_layer] for of_layer in zip(*parts, strict=True)]
        angles = arithmetic.angles(made.rotor, made.positions).astype(np.int32)
        constants = [[*layer.shifts, score_shift(made.head_size)] for layer in made.layers]
        return cls(
            (*VARIANT.pack(made.embed.linear), made.embed.multiplier, made.embed_shift, tables),
            (
                tuple(_stacked([weights for weights, _ in of_part]) for of_part in packed),
                tuple(np.stack([bias for _, bias in of_part]) for of_part in packed),
                tuple(np.stack([scaled.multiplier for scaled in of_part]) for of_part in zip(*parts, strict=True)),
                np.array(constants, np.int64),
            ),
            (*VARIANT.pack(made.head.linear), made.head.multiplier, made.head_shift, made.bias),
            (np.ascontiguousarray(angles[..., 0]), np.ascontiguousarray(angles[..., 1])),
            len(made.layers),
            made.heads,
            made.head_size,
            made.hidden,
            made.layers[0].down.linear.inputs,
            made.patch,
            made.positions,
            made.mixtures,
        )

    def work(self) -> tuple[Any, ...]:
        """What a tile of voxels needs: a layer's work, attention's, and what begins and ends a tile."""
        widest = max(self.hidden + 1, (self.heads + 2) * self.size, 2 * self.inner, 3 * self.mixtures)
        size, heads, length = padded(self.size, LANES_MAX), padded(self.heads, ROWS), padded(self.positions, LANES_MAX)

        def rows(width: int) -> NDArray[np.int8]:
            return aligned_zeros((TILE, padded(width, INPUTS)), np.int8)

        layer = (
            rows(self.hidden), rows(self.inner), rows(self.heads * self.size), aligned_zeros((TILE, widest), np.int32),
            aligned_zeros((TILE, padded(widest, OUTPUTS)), np.int32), aligned_zeros((TILE, self.heads * self.size), np.int32),
            np.zeros(TILE, np.int64), np.zeros(TILE, np.int64),
        )  # fmt: skip
        attention = (
            aligned_zeros((heads, size), ATTENTION.row), np.zeros(heads, np.int32), np.zeros(heads, np.int64),
            aligned_zeros((heads, length), np.int32), aligned_zeros((heads, length), ATTENTION.weight),
            np.zeros(heads, np.int32), aligned_zeros((heads, size), np.int32),
        )  # fmt: skip
        ends = (
            rows(_NEIGHBOURS + 7), aligned_zeros((TILE, self.hidden), np.int32), np.zeros(TILE, np.int64),
            np.zeros((TILE, 3 * self.mixtures), np.int64),
        )  # fmt: skip
        return layer, attention, ends

    def memory(self, slots: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Keys and values of so many slots."""
        numbers = self.layer_count * slots * padded(self.positions, LANES_MAX) * padded(self.size, LANES_MAX)
        return aligned_zeros((numbers,), ATTENTION.key), aligned_zeros((numbers,), ATTENTION.value)


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    result = aligned_zeros((len(parts), *parts[0].shape), parts[0].dtype)
    result[...] = parts
    return result


def suits(made: Network) -> bool:
    """Whether the compiled linear layers give known answers for layers of these sizes too."""
    return compiled_variant(made.shapes) is VARIANT


def encode(samples: Ints, high: int, together: int, made: Packed) -> bytes:
    """The coded samples (planes, rows, columns), 0..high."""
    flat = np.ascontiguousarray(samples, np.int64).reshape(-1)
    words, coder = np.empty(max(len(flat) // 2, 1 << 12), np.uint32), range_coder.new_encoder()
    for begin, runs in groups(samples.shape, made.patch, together):
        loop = _Loop(begin, runs, samples.shape, high, made)
        while loop.run(True, flat, words, coder) == FULL:
            words = np.concatenate([words, np.empty(len(words) + WORDS_PER_SAMPLE * runs.slots, np.uint32)])
    return range_coder.finished(coder, words)


def decode(payload: bytes, shape: tuple[int, int, int], high: int, together: int, made: Packed) -> Ints:
    """The samples that `encode` coded. Raises ArchiveDamagedError where the payload leads to none."""
    words = range_coder.words_of(payload)
    coder, flat = range_coder.new_decoder(words), np.zeros(shape[0] * shape[1] * shape[2], np.int64)
    for begin, runs in groups(shape, made.patch, together):
        if _Loop(begin, runs, shape, high, made).run(False, flat, words, coder) == DAMAGED:
            raise ArchiveDamagedError(
                "coded payload: expected symbols of the chunk's model, found words that no encoder writes; "
                "restore the archive from a copy"
            )
    return flat.reshape(shape)


class _Loop:
    """What the compiled loop keeps of stacks side by side, so that it can go on where it stopped."""

    def __init__(self, begin: int, runs: Runs, shape: tuple[int, int, int], high: int, made: Packed) -> None:
        known = Known(int(runs.stack.max()) + 1, shape[1:], made.patch)
        self._state = np.zeros(1, np.int64)
        self._runs = (runs.start, runs.length, runs.stack, runs.row, runs.column, runs.first, runs.steps)
        self._current = runs.first[:-1].copy()
        self._image = (begin, shape[1], shape[2], high, features.inverse_of(high))
        self._known = (known.flat, known.deltas, known.stack, known.plane, known.pitch, known.origin)
        self._network = (made.embed, made.layers, made.head, made.angles)
        self._sizes = (made.heads, made.size, made.patch, padded(made.positions, LANES_MAX), runs.slots)
        self._memory = made.memory(runs.slots)
        self._work = made.work()
        n = padded(runs.slots, TILE)
        self._due = tuple(np.zeros(n, np.int64) for _ in range(7))
        self._mixtures = tuple(np.zeros((n, made.mixtures), np.int64) for _ in range(3))
        self._curve = curve_of("gaussian")

    def run(self, encoding: bool, samples: Ints, words: NDArray[np.uint32], coder: NDArray[np.uint64]) -> int:
        while (result := self._part(encoding, samples, words, coder)) == PAUSED:
            interrupts.check()
        return result

    def _part(self, encoding: bool, samples: Ints, words: NDArray[np.uint32], coder: NDArray[np.uint64]) -> int:
        return int(
            _run(
                encoding, samples, words, coder, self._state, self._runs, self._current, self._image, self._known, self._network,
                self._sizes, self._memory, self._work, self._due, self._mixtures, self._curve,
            )
        )  # fmt: skip


@njit
def _run(
    encoding: Any, samples: Any, words: Any, coder: Any, state: Any, runs: Any, current: Any, image: Any, known: Any,
    network: Any, sizes: Any, memory: Any, work: Any, due: Any, mixtures: Any, curve: Any,
) -> Any:  # fmt: skip
    """Goes on with step state[0]; gives GOOD, FULL (words), DAMAGED or PAUSED."""
    begin, rows, columns, high, _ = image
    values, stack_of, row_of, column_of = known[0], runs[2], runs[3], runs[4]
    slots, run, place, at, index, coded, batch = due
    steps, patch = runs[6], sizes[2]
    pause = state[0] + STEPS_AT_A_TIME
    while state[0] < steps:
        if state[0] == pause:
            return PAUSED
        n = _find_due(state[0], runs, current, slots, run, place)
        for i in range(n):
            channel, within = place[i] // (patch * patch), place[i] % (patch * patch)
            row, column = row_of[run[i]] + within // patch, column_of[run[i]] + within % patch
            at[i] = stack_of[run[i]] * known[2] + channel * known[3] + row * known[4] + column + known[5]
            plane = begin + PLANES_PER_STACK * stack_of[run[i]] + channel
            index[i] = (plane * rows + row) * columns + column if row < rows and column < columns else -1
        count = _mix(n, slots, place, at, index, coded, image, known, network, sizes, memory, work, mixtures)
        for j in range(count if encoding else 0):
            batch[j] = samples[index[coded[j]]]
        weight, mean, scale = mixtures
        result = code_batch(encoding, batch, weight, mean, scale, count, _LOWEST, high, curve, words, coder)
        if result != 0:
            return result
        for j in range(count):
            values[at[coded[j]]] = batch[j]
            if not encoding:
                samples[index[coded[j]]] = batch[j]
        state[0] += 1
    return 0


@njit
def _find_due(step: Any, runs: Any, current: Any, slots: Any, run: Any, place: Any) -> Any:
    """The slots that hold a patch at this step, the patches' numbers, which of its voxels is due, and how many there are."""
    start, length, first = runs[0], runs[1], runs[5]
    n = 0
    for slot in range(len(current)):
        if start[current[slot]] + length[current[slot]] <= step and current[slot] + 1 < first[slot + 1]:
            current[slot] += 1
        now = current[slot]
        if start[now] <= step < start[now] + length[now]:
            slots[n], run[n], place[n] = slot, now, step - start[now]
            n += 1
    return n


@njit
def _mix(
    n: Any, slots: Any, place: Any, at: Any, index: Any, coded: Any, image: Any, known: Any, network: Any, sizes: Any,
    memory: Any, work: Any, mixtures: Any,
) -> Any:  # fmt: skip
    """Passes n voxels through the network: mixtures of those inside the image, which `coded` lists, and how many they are."""
    layer_work, attention_work, (seen, stream, shared, outputs) = work
    embed, layers, head, angles = network
    weights, biases, multipliers, constants = layers
    heads, size, patch, positions, slot_count = sizes
    keys, values = memory
    sums, roots = layer_work[4], layer_work[6]
    tile_slots, tile_places = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    predicted, exponents = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    total = 0
    for first in range(0, n, TILE):
        count = min(TILE, n - first)
        for i in range(count):
            tile_slots[i], tile_places[i] = slots[first + i], place[first + i]
            channel = place[first + i] // (patch * patch)
            predicted[i], exponents[i] = _look(known[0], at[first + i], known[1], channel, image[3], image[4], seen, i)
        embed_rows(seen, count, tile_places, embed[0], embed[1], embed[2], embed[3], embed[4], patch, sums, stream, shared)
        for layer in range(len(constants)):
            pass_layer(
                stream, count, tile_slots, tile_places, np.int64(layer * slot_count),
                (weights[0][layer], weights[1][layer], weights[2][layer], weights[3][layer]),
                (biases[0][layer], biases[1][layer], biases[2][layer], biases[3][layer]),
                (multipliers[0][layer], multipliers[1][layer], multipliers[2][layer], multipliers[3][layer]),
                constants[layer], angles[0], angles[1], keys, values, positions, heads, size, layer_work, attention_work,
            )  # fmt: skip
        head_rows(
            stream, count, head[0], head[1], head[2], head[3], head[4], layer_work[0], roots, sums, shared, outputs
        )  # fmt: skip
        for i in range(count):
            if index[first + i] >= 0:
                _mixture(outputs, i, predicted[i], exponents[i], mixtures, total)
                coded[total] = first + i
                total += 1
    return total


@njit
def _look(values: Any, at: Any, deltas: Any, channel: Any, top: Any, inverse_top: Any, seen: Any, i: Any) -> Any:
    """Prediction and scale of one voxel, whose features go to row i of `seen`."""
    west, north = values[at + deltas[_W]], values[at + deltas[_N]]
    other = values[at + deltas[_NE]] + values[at + deltas[_NW]]
    predicted = (3 * west + 3 * north + other + 4) >> 3
    total = np.int64(0)
    for j in range(len(_NEAREST)):
        total += abs(values[at + deltas[_NEAREST[j]]] - predicted)
    exponent = np.int64(0)
    while exponent < _EXPONENT_MAX and np.int64(10) << exponent < total + 5:
        exponent += 1
    half = (np.int64(1) << exponent) >> 1
    known = _IN_SLICE if channel == 0 else _SECOND if channel == 1 else _NEIGHBOURS
    for j in range(known):
        difference = (values[at + deltas[j]] - predicted) << _UNIT_BITS
        seen[i, j] = min(max((difference + half) >> exponent, -_BYTE_MAX), _BYTE_MAX)
    for j in range(known, _NEIGHBOURS):
        seen[i, j] = 0
    seen[i, _NEIGHBOURS] = min((_DEVIATION * total) >> exponent, _BYTE_MAX)
    seen[i, _NEIGHBOURS + 1] = 4 * exponent
    seen[i, _NEIGHBOURS + 2] = min((predicted << _UNIT_BITS) >> exponent, _BYTE_MAX)
    seen[i, _NEIGHBOURS + 3] = min(((top - predicted) << _UNIT_BITS) >> exponent, _BYTE_MAX)
    seen[i, _NEIGHBOURS + 4] = ((predicted * inverse_top) >> 32) - _BYTE_MAX
    seen[i, _NEIGHBOURS + 5] = _FLAG if channel > 0 else 0
    seen[i, _NEIGHBOURS + 6] = _FLAG if channel > 1 else 0
    return predicted, exponent


@njit
def _mixture(outputs: Any, i: Any, predicted: Any, exponent: Any, mixtures: Any, at: Any) -> None:
    """Mixture number `at` from row i of the network's outputs: `network.mixture`."""
    weight, mean, scale = mixtures
    k = weight.shape[1]
    less_weight, largest = 0, outputs[i, 0]
    while (1 << less_weight) < k:
        less_weight += 1
    for j in range(1, k):
        largest = max(largest, outputs[i, j])
    for j in range(k):
        less = largest - outputs[i, j]
        weight[at, j] = _INVERSE[less & 15] >> ((less >> 4) + less_weight) if less < 16 * _OCTAVES else 0
        offset = min(max(outputs[i, k + j], -_MEAN_REACH), _MEAN_REACH) << exponent
        mean[at, j] = min(max((predicted << POSITION_BITS) + offset, -MEAN_MAX), MEAN_MAX)
        deviation = min(max(outputs[i, 2 * k + j], _LEAST), _MOST)
        scale[at, j] = min(max(16 * (exponent - _SMALLEST) + deviation, 0), SCALE_CODES - 1)
