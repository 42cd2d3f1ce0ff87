"""The parametric model: a fitted linear predictor and counted contexts, all in integers, no weights.

Every sample gets two logistics of one mean. The mean is (3W + 3N + NE + NW) / 8, plus a combination of 15 neighbours of the
plane and 9 of the plane before whose coefficients the encoder solved for (least squares, exact in integers, sent with the
chunk), plus what samples of a like texture were off by so far. The scale follows the mean absolute error of samples of like
activity so far. Contexts of this kind are those of CALIC (Wu and Memon, IEEE Trans. Communications 1997).

Sample (z, y, x) is coded at step x + 3 y + 5 z: every neighbour it looks at has an earlier step, so all samples of a step are one
batch. Encoder and decoder run the same loop and differ only in where a batch's samples come from.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model import wavefront
from medzip.entropy_model.contract import Chunk, ChunkHeader, Requirements, integer_range
from medzip.errors import ArchiveDamagedError
from medzip.exact.mixture import POSITION_BITS, SCALE_CODES, SIGMA, Mixture
from medzip.exact.symbols import decode_samples, encode_samples

Ints = NDArray[np.int64]

# (plane, row, column) relative to the sample. The order of the first six is relied on below: W, N, NE, NW, WW, NN.
IN_PLANE = [(0, 0, -1), (0, -1, 0), (0, -1, 1), (0, -1, -1), (0, 0, -2), (0, -2, 0), (0, -1, 2), (0, -1, -2), (0, -2, -1)]
IN_PLANE += [(0, -2, 1), (0, -1, -3), (0, 0, -3), (0, -2, 2), (0, -2, -2), (0, -3, 0)]
PLANE_BEFORE = [(-1, 0, 0), (-1, 0, 1), (-1, 0, -1), (-1, 1, 0), (-1, -1, 0), (-1, 1, 1), (-1, 1, -1), (-1, -1, 1), (-1, -1, -1)]
NEIGHBOURS = IN_PLANE + PLANE_BEFORE
STEP_OF_ROW, STEP_OF_PLANE = 3, 5
# One column more than any neighbour needs on the right: what the first row writes ahead must not reach the next row.
TOP, BOTTOM, LEFT, RIGHT = 3, 1, 3, 3

ERROR_WEIGHTS = np.array([3, 3, 2, 2, 1, 1], np.int64)[:, None]
ERROR_WEIGHTS_BEFORE = np.array([2, 1, 1, 1, 1], np.int64)[:, None]
ERROR_WEIGHT_SUM = 18
ERROR_BITS = 4
ERROR_MAX = 1 << 30

COEFFICIENT_BITS = 10
COEFFICIENT_MAX = 4 << COEFFICIENT_BITS
FIT_SAMPLES = 1 << 16
FIT_SAMPLES_MIN = 1 << 12

HALF_OCTAVES = np.unique(np.round(2.0 ** (np.arange(76) / 2)).astype(np.int64))
LEVELS = len(HALF_OCTAVES) + 1
COUNT_MAX = 1 << 10
BIAS_PRIOR = 16
SCALE_PRIOR = 4

# sigma / mean absolute error is 2^(-11/16) for the narrow logistic, which has 29/32 of the weight, and 2^(7/16) for the wide one.
NARROW, WIDE = -11, 7
WEIGHTS = (29, 3)


class Parametric:
    """The entropy model 'parametric', for integers of 8 to 32 bits; it ignores a base layer."""

    name = "parametric"

    def requirements(self) -> Requirements:
        """Nothing but medzip: portable, no weights."""
        return Requirements()

    def encode(self, chunk: Chunk, coder: Encoder) -> dict[str, Any]:
        """Codes the chunk; returns its range and the fitted coefficients. Raises UnsupportedInputError for 64-bit samples."""
        samples = chunk.samples
        low, high = integer_range(self.name, samples)
        values = samples.astype(np.int64) - low
        taps = _fit(values)
        flat = values.reshape(-1)

        def code(index: Ints, mixture: Mixture) -> Ints:
            batch = flat[index]
            encode_samples(batch, mixture, 0, high - low, coder)
            return batch

        if high > low:
            _wavefront(samples.shape, high - low, _coefficients(taps), code)
        return {"low": low, "high": high, "taps": taps}

    def decode(self, header: ChunkHeader, coder: Decoder) -> NDArray[np.integer[Any]]:
        """The samples that `encode` coded. Raises ArchiveDamagedError where the header makes no sense."""
        low, high, taps = _checked(header)
        samples = np.full(header.shape, low, header.dtype)
        flat = samples.reshape(-1)

        def code(index: Ints, mixture: Mixture) -> Ints:
            batch = decode_samples(mixture, 0, high - low, coder)
            flat[index] = (batch + low).astype(samples.dtype)
            return batch

        if high > low:
            _wavefront(header.shape, high - low, _coefficients(taps), code)
        return samples


def _checked(header: ChunkHeader) -> tuple[int, int, list[list[int]]]:
    dtype = np.dtype(header.dtype)
    low, high, taps = (header.side.get(key) for key in ("low", "high", "taps"))
    if (
        dtype.kind in "iu"
        and dtype.itemsize <= 4
        and isinstance(low, int)
        and isinstance(high, int)
        and np.iinfo(dtype).min <= low <= high <= np.iinfo(dtype).max
        and isinstance(taps, list)
        and all(isinstance(row, list) for row in taps)
        and [len(row) for row in taps] in ([], [len(IN_PLANE), len(NEIGHBOURS)])
        and all(isinstance(tap, int) and abs(tap) <= COEFFICIENT_MAX for row in taps for tap in row)
    ):
        return low, high, taps
    raise ArchiveDamagedError(
        "chunk header of model parametric: expected a dtype of 8 to 32 bits, a range and taps, found others; "
        "restore the archive from a copy"
    )


def _wavefront(shape: tuple[int, ...], top: int, coefficients: Ints, code: Callable[[Ints, Mixture], Ints]) -> None:
    """Visits every sample of `shape` once; `code` gets the flat indices of a batch and its mixtures, gives values in 0..top."""
    planes, rows, columns = shape
    context = _Context(planes, rows, columns, top, coefficients)
    for plane, row, column in wavefront.steps((planes, rows, columns), STEP_OF_ROW, STEP_OF_PLANE * np.arange(planes)):
        context.look(plane, row, column)
        values = code((plane * rows + row) * columns + column, context.mixture())
        context.learn(values)


class _Context:
    """What is known so far: decoded values and errors with margins around every plane, and the counts of all contexts."""

    def __init__(self, planes: int, rows: int, columns: int, top: int, coefficients: Ints) -> None:
        self.rows, self.columns, self.top, self.coefficients = rows, columns, top, coefficients
        self.row = columns + LEFT + RIGHT
        self.plane = (rows + TOP + BOTTOM) * self.row
        size = (planes + 1) * self.plane
        self.values = np.zeros(size, np.int32 if top <= np.iinfo(np.int32).max else np.int64)
        self.errors = np.zeros(size, np.int32)
        self.offsets = np.array([dz * self.plane + dy * self.row + dx for dz, dy, dx in NEIGHBOURS], np.int64)[:, None]
        self.bias_sum, self.bias_count = np.zeros(64 * LEVELS, np.int64), np.zeros(64 * LEVELS, np.int64)
        self.scale_sum = np.repeat(_octaves() * SCALE_PRIOR // ERROR_WEIGHT_SUM, LEVELS)
        self.scale_count = np.full(LEVELS * LEVELS, SCALE_PRIOR, np.int64)

    def look(self, plane: Ints, row: Ints, column: Ints) -> None:
        """Predicts the samples of a batch, and finds their contexts."""
        self.at_row, self.at_column = row, column
        self.at = (plane + 1) * self.plane + (row + TOP) * self.row + column + LEFT
        places = self.at + self.offsets
        near = self.values.take(places).astype(np.int64)
        w, n, ne, nw, ww, nn = near[:6]
        base = 3 * (w + n) + ne + nw
        fitted = ((8 * near - base) * self.coefficients[:, np.minimum(plane, 1)]).sum(axis=0)
        mean = (base << (POSITION_BITS - 3)) + (fitted >> (COEFFICIENT_BITS + 3 - POSITION_BITS))

        before = len(IN_PLANE)
        activity = (self.errors.take(places[:6]) * ERROR_WEIGHTS).sum(axis=0)
        activity_before = (self.errors.take(places[before : before + 5]) * ERROR_WEIGHTS_BEFORE).sum(axis=0)
        activity += np.where(plane > 0, activity_before, activity >> 1)
        spread = np.abs(w - nw) + np.abs(n - nw) + np.abs(n - ne) + np.abs(w - ww) + np.abs(n - nn)
        level = np.searchsorted(HALF_OCTAVES, activity, side="right")
        self.of_scale = level * LEVELS + np.searchsorted(HALF_OCTAVES, spread, side="right")
        pattern = ((near[:6] << POSITION_BITS > mean) << np.arange(6)[:, None]).sum(axis=0)
        self.of_bias = pattern * LEVELS + level

        self.raw_mean = mean
        mean = mean + self.bias_sum[self.of_bias] // (self.bias_count[self.of_bias] + BIAS_PRIOR)
        self.mean = np.clip(mean, 0, self.top << POSITION_BITS)

    def mixture(self) -> Mixture:
        """Two logistics for every sample that `look` was given."""
        error = (self.scale_sum[self.of_scale] << (POSITION_BITS - ERROR_BITS)) // self.scale_count[self.of_scale]
        code = np.searchsorted(SIGMA, error).astype(np.int64)
        scale = np.clip(np.stack([code + NARROW, code + WIDE], axis=1), 0, SCALE_CODES - 1)
        weight = np.broadcast_to(np.array(WEIGHTS, np.int64), scale.shape)
        return Mixture(weight, np.stack([self.mean, self.mean], axis=1), scale)

    def learn(self, values: Ints) -> None:
        """Takes in what the samples turned out to be (n,)."""
        position = values << POSITION_BITS
        error = np.minimum(np.abs(position - self.mean) >> (POSITION_BITS - ERROR_BITS), ERROR_MAX)
        self.errors[self.at] = error
        _count(self.of_scale, error, self.scale_sum, self.scale_count)
        _count(self.of_bias, position - self.raw_mean, self.bias_sum, self.bias_count)
        self._write(values)

    def _write(self, values: Ints) -> None:
        """Puts the values in their places, and those at the plane's borders into the margins beside them."""
        self.values[self.at] = values
        for edge, offsets in (
            (self.at_column == 0, [self.row - 1, self.row - 2, self.row - 3]),
            (self.at_column == self.columns - 1, [1, 2]),
            (self.at_row == self.rows - 1, [self.row]),
            (self.at_row == 0, [ahead - up * self.row for ahead in (1, 2, 3) for up in (1, 2, 3)]),
        ):
            if edge.any():
                at = self.at[edge]
                for offset in offsets:
                    self.values[at + offset] = values[edge]


def _octaves() -> Ints:
    """A typical activity of each level (LEVELS,)."""
    return np.concatenate([[0], HALF_OCTAVES])


def _count(context: Ints, amount: Ints, sums: Ints, counts: Ints) -> None:
    """Adds a batch to its contexts; a context that has seen enough is halved, to follow what changes."""
    np.add.at(sums, context, amount)
    np.add.at(counts, context, 1)
    full = np.flatnonzero(counts > COUNT_MAX)
    if len(full):
        # A batch may bring more than one halving's worth.
        shift = np.searchsorted(COUNT_MAX << np.arange(40), counts[full])
        sums[full] >>= shift
        counts[full] >>= shift


def _coefficients(taps: list[list[int]]) -> Ints:
    """Coefficients (24, 2) in units of 2^-10: for the first plane, for the others."""
    coefficients = np.zeros((len(NEIGHBOURS), 2), np.int64)
    for column, row in enumerate(taps):
        coefficients[: len(row), column] = row
    return coefficients


def _fit(values: Ints) -> list[list[int]]:
    """The coefficients for the first plane and for the others, or none where a chunk is too small to pay for them.

    Differences to the base prediction are divided by the spread around each sample, so that flat regions count as much
    as edges; then they are integers below 2^12, and sums over 2^16 samples are exact in float64 whatever their order.
    """
    planes, rows, columns = values.shape
    if values.size < FIT_SAMPLES_MIN:
        return []
    padded = np.pad(values, ((1, 0), (TOP, BOTTOM), (LEFT, RIGHT)), mode="edge").reshape(-1)
    row = columns + LEFT + RIGHT
    plane = (rows + TOP + BOTTOM) * row
    # A multiplicative walk (Knuth, TAOCP 3, 6.4) scatters the samples without a random generator.
    count = min(values.size, FIT_SAMPLES)
    chosen = np.arange(count) * 2654435761 % values.size
    z, y, x = np.unravel_index(chosen, values.shape)
    at = (z + 1) * plane + (y + TOP) * row + x + LEFT
    near = padded[at[:, None] + np.array([dz * plane + dy * row + dx for dz, dy, dx in NEIGHBOURS])]
    base = 3 * (near[:, 0] + near[:, 1]) + near[:, 2] + near[:, 3]
    differences = 8 * np.column_stack([near, padded[at]]) - base[:, None]
    spread = np.abs(differences[:, :8]).sum(axis=1, keepdims=True) + 32
    scaled = np.clip((differences << 10) // spread, -4095, 4095).astype(np.float64)
    inside = len(IN_PLANE)
    first = _solve(scaled[:, [*range(inside), -1]])
    others = _solve(scaled[z > 0]) if planes > 1 else [*first, *[0] * len(PLANE_BEFORE)]
    return [first, others]


def _solve(equations: NDArray[np.float64]) -> list[int]:
    """Least squares of the last column by the others, exact: Gauss on fractions, then rounded to 2^-10."""
    products = (equations.T @ equations).astype(np.int64).tolist()
    n = len(products) - 1
    ridge = sum(products[i][i] for i in range(n)) // (n << 12) + 1
    rows = [[Fraction(v + ridge * (i == j)) for j, v in enumerate(products[i])] for i in range(n)]
    for i in range(n):
        for k in range(i + 1, n):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [b - factor * a if j >= i else b for j, (a, b) in enumerate(zip(rows[i], rows[k], strict=True))]
    solution = [Fraction(0)] * n
    for i in reversed(range(n)):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, n))
        solution[i] = (rows[i][n] - known) / rows[i][i]
    return [max(-COEFFICIENT_MAX, min(COEFFICIENT_MAX, round(c * (1 << COEFFICIENT_BITS)))) for c in solution]
