"""The loop of JPEG-LS: one function for both directions, so that they cannot differ (ITU-T T.87 annex A).

Everything that changes lies in one array of numbers, `state`, as each further array would slow down every call: where coding
stands (POSITION of the next byte, the bits READ of bytes that are not used up, how MANY, whether coding FAILED), the parameters
of the scan, the indices of run orders, and from CONTEXT on A, B (of the run contexts 365 and 366: Nn), C and N of each context.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medzip.sources.encapsulated.compiled import COMPILED, as_array, compiled, loop_input, loop_output

if TYPE_CHECKING:
    from medzip.sources.encapsulated.jpeg_ls import ScanPlan

POSITION, READ, MANY, FAILED = range(4)
ROWS, COLUMNS, CHANNELS, PARTS, BY_SAMPLE, MAXVAL, NEAR, T1, T2, T3, RESET, RANGE, QBPP, LIMIT = range(4, 18)
EXCEPTIONS, NEXT, ORDER, RUN, FOUND, CONTEXT = 18, 19, 20, 23, 26, 32
"""Number of exceptions and of those used; the channels of up to three parts of a scan, the index of each one's run order, each
one's context and prediction; and all contexts."""
CONTEXTS, RUN_CONTEXT = 367, 365
SAMPLE_BYTES = 12
"""At most: a limited Golomb code of 64 bits, a run of length 0 before it, an eighth more for stuffed bits."""
RUN_ORDERS = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_J = np.array(RUN_ORDERS, np.int64) if COMPILED else RUN_ORDERS
_LENGTHS = loop_input([byte.bit_length() for byte in range(256)], "i8")


def decode_scan(stream: bytes, position: int, decoded: NDArray[np.int32], plan: ScanPlan) -> tuple[int, list[int]]:
    """Fills `decoded` (rows, columns, channels) from the coded data at `position`.

    Gives where the first byte lies that is not coded data alone (-1 where they are damaged), and the pixels (numbers in the
    order of rows) that end a run although they are as near to it as those in it.
    """
    samples = decoded.reshape(-1) if COMPILED else decoded.reshape(-1).tolist()
    exceptions = loop_output(samples_of(plan) if plan.near else 1, "i8")
    state = _state(plan, position, 0)
    _code(False, loop_input(stream, "u1"), state, samples, exceptions, _regions(plan.parameters))
    if not COMPILED:
        decoded[:] = np.array(samples, np.int32).reshape(decoded.shape)
    end = -1 if state[FAILED] else int(state[POSITION]) - (1 if state[MANY] else 0)
    return end, [int(number) for number in exceptions[: state[EXCEPTIONS]]]


def encode_scan(samples: NDArray[np.int32], plan: ScanPlan, exceptions: list[int]) -> bytes:
    """The coded data of a scan without its last byte where that is not full."""
    out = loop_output(SAMPLE_BYTES * samples_of(plan) + 64 * plan.shape[0], "u1")
    state = _state(plan, 0, len(exceptions))
    _code(True, out, state, loop_input(samples, "i4"), loop_input(exceptions or [-1], "i8"), _regions(plan.parameters))
    return as_array(out[: int(state[POSITION])], "u1").tobytes()


def samples_of(plan: ScanPlan) -> int:
    """How many samples a scan codes."""
    return plan.shape[0] * plan.shape[1] * len(plan.order)


def _state(plan: ScanPlan, position: int, exceptions: int) -> Any:
    """The state before the first sample (A.2.1)."""
    state = np.zeros(CONTEXT + 4 * CONTEXTS, np.int64)
    state[POSITION] = position
    state[ROWS : LIMIT + 1] = (*plan.shape, len(plan.order), plan.by_sample, *plan.parameters)
    state[EXCEPTIONS] = exceptions
    state[ORDER : ORDER + len(plan.order)] = plan.order
    state[CONTEXT::4], state[CONTEXT + 3 :: 4] = max(2, (state[RANGE] + 32) >> 6), 1
    return loop_input(state, "i8")


@lru_cache(4)
def _regions(parameters: tuple[int, ...]) -> Any:
    """The region of each local gradient from -MAXVAL to MAXVAL (A.3.3)."""
    most, near, *thresholds = parameters[:5]
    gradients = np.arange(-most, most + 1)
    sizes = np.searchsorted([near + 1, *thresholds], np.abs(gradients), "right")
    return loop_input(sizes * np.sign(gradients), "i8")


@compiled
def _write(data: Any, state: Any, value: Any, length: Any) -> Any:
    """At most 32 bits; the highest bit of a byte behind 0xFF is 0 (A.1)."""
    position, read, many = state[POSITION], state[READ] << length | value, state[MANY] + length
    while True:
        size = 7 if position > 0 and data[position - 1] == 255 else 8
        if many < size:
            break
        many -= size
        data[position] = read >> many
        position += 1
        read &= (1 << many) - 1
    state[POSITION], state[READ], state[MANY] = position, read, many


@compiled
def _filled(data: Any, position: Any, read: Any, many: Any) -> Any:
    """One byte more, zeros behind the last; and whether it was there."""
    size = 7 if position > 0 and data[position - 1] == 255 else 8
    there = position < len(data) and (size == 8 or data[position] < 128)
    byte = int(data[position]) if there else 0
    return position + 1 if there else position, read << size | byte, many + size, there


@compiled
def _read(data: Any, state: Any, length: Any) -> Any:
    """At most 32 bits; no byte is taken before it is needed."""
    position, read, many = state[POSITION], state[READ], state[MANY]
    while many < length:
        position, read, many, there = _filled(data, position, read, many)
        if not there:
            state[FAILED] = 1
    many -= length
    state[POSITION], state[READ], state[MANY] = position, read & ((1 << many) - 1), many
    return read >> many


@compiled
def _golomb(writing: Any, data: Any, state: Any, value: Any, k: Any, limit: Any) -> Any:
    """The limited Golomb code of A.5.3: writes `value`, or gives the one read."""
    qbpp = state[QBPP]
    most = limit - qbpp - 1
    if writing:
        high = value >> k
        zeros = high if high < most else most
        rest, length = (value & ((1 << k) - 1), k) if high < most else ((value - 1) & ((1 << qbpp) - 1), qbpp)
        while zeros + length > 31:
            part = min(zeros, 24)
            _write(data, state, 0, part)
            zeros -= part
            if zeros == 0:
                break
        _write(data, state, 1 << length | rest, zeros + 1 + length)
        return value
    position, read, many, zeros = state[POSITION], state[READ], state[MANY], 0
    while read == 0:
        zeros += many
        position, read, many, there = _filled(data, position, read, 0)
        if zeros > most or not there:
            state[FAILED] = 1
            return 0
    zeros += many - _LENGTHS[read]
    if zeros > most:
        state[FAILED] = 1
        return 0
    many = _LENGTHS[read] - 1
    read &= (1 << many) - 1
    length = k if zeros < most else qbpp
    while many < length:
        position, read, many, there = _filled(data, position, read, many)
        if not there:
            state[FAILED] = 1
            return 0
    many -= length
    rest = read >> many
    state[POSITION], state[READ], state[MANY] = position, read & ((1 << many) - 1), many
    return zeros << k | rest if zeros < most else rest + 1


@compiled
def _error(sample: Any, expected: Any, sign: Any, state: Any) -> Any:
    """The quantized prediction error, in the range of its modulus (A.4.4, A.4.5)."""
    error, near = (sample - expected) * sign, state[NEAR]
    if near:
        error = (error + near) // (2 * near + 1) if error > 0 else -((near - error) // (2 * near + 1))
    if error < 0:
        error += state[RANGE]
    if error >= (state[RANGE] + 1) >> 1:
        error -= state[RANGE]
    return error


@compiled
def _reconstructed(error: Any, expected: Any, sign: Any, state: Any) -> Any:
    near, most = state[NEAR], state[MAXVAL]
    value, turn = expected + sign * error * (2 * near + 1), state[RANGE] * (2 * near + 1)
    if value < -near:
        value += turn
    elif value > most + near:
        value -= turn
    return min(max(value, 0), most)


@compiled
def _regular(writing: Any, data: Any, state: Any, sample: Any, index: Any, expected: Any) -> Any:
    """A sample in regular mode (A.4 to A.6); the sample read, or the one given."""
    sign = -1 if index < 0 else 1
    context = CONTEXT + 4 * index * sign
    a, b, c, n = state[context], state[context + 1], state[context + 2], state[context + 3]
    expected = min(max(expected + sign * c, 0), state[MAXVAL])
    k = 0
    while n << k < a:
        k += 1
    turned = state[NEAR] == 0 and k == 0 and 2 * b <= -n
    error, mapped = 0, 0
    if writing:
        error = _error(sample, expected, sign, state)
        # Turned, an error stands where its bitwise inverse stands else.
        folded = -error - 1 if turned else error
        mapped = 2 * folded if folded >= 0 else -2 * folded - 1
    mapped = _golomb(writing, data, state, mapped, k, state[LIMIT])
    if not writing:
        error = mapped >> 1 if mapped & 1 == 0 else -((mapped + 1) >> 1)
        if turned:
            error = -error - 1
        sample = _reconstructed(error, expected, sign, state)
    a, b = a + abs(error), b + error * (2 * state[NEAR] + 1)
    if n == state[RESET]:
        a, b, n = a >> 1, b >> 1, n >> 1
    n += 1
    if b <= -n:
        b, c = max(b + n, 1 - n), max(c - 1, -128)
    elif b > 0:
        b, c = min(b - n, 0), min(c + 1, 127)
    state[context], state[context + 1], state[context + 2], state[context + 3] = a, b, c, n
    return sample


@compiled
def _interrupting(writing: Any, data: Any, state: Any, sample: Any, left: Any, above: Any, kind: Any, run_order: Any) -> Any:
    """A sample that ends a run of kind 0 or 1, behind `run_order` bits of its length (A.7.2); that read, or that given."""
    sign = -1 if kind == 0 and left > above else 1
    expected = left if kind else above
    context = CONTEXT + 4 * (RUN_CONTEXT + kind)
    a, negative, n = state[context], state[context + 1], state[context + 3]
    total = a + (n >> 1) if kind else a
    k = 0
    while n << k < total:
        k += 1
    error, mapped = 0, 0
    if writing:
        error = _error(sample, expected, sign, state)
        odd = (error > 0 and k == 0 and 2 * negative < n) or (error < 0 and (k != 0 or 2 * negative >= n))
        mapped = 2 * abs(error) - kind - (1 if odd else 0)
    mapped = _golomb(writing, data, state, mapped, k, state[LIMIT] - run_order - 1)
    if not writing:
        odd = (mapped + kind) & 1 == 1
        error = (mapped + kind + 1) >> 1
        if odd == (k != 0 or 2 * negative >= n):
            error = -error
        sample = _reconstructed(error, expected, sign, state)
    negative += 1 if error < 0 else 0
    a += (mapped + 1 - kind) >> 1
    if n == state[RESET]:
        a, negative, n = a >> 1, negative >> 1, n >> 1
    state[context], state[context + 1], state[context + 3] = a, negative, n + 1
    return sample


@compiled
def _run_length(writing: Any, data: Any, state: Any, length: Any, left: Any, run: Any) -> Any:
    """A run of `length` pixels, `left` of which are left in the line: writes it, or gives the one read (A.7.1)."""
    done = 0
    while True:
        block = 1 << _J[state[run]]
        whole = (length - done >= block or (length == left and done < left)) if writing else done < left
        if not whole:
            break
        if writing:
            _write(data, state, 1, 1)
        elif _read(data, state, 1) == 0:
            break
        if done + block <= left and state[run] < 31:
            state[run] += 1
        done = min(done + block, left)
    if writing and length < left:
        _write(data, state, length - done, _J[state[run]] + 1)
    elif not writing and done < left:
        done += _read(data, state, _J[state[run]])
        if done >= left:
            state[FAILED] = 1
    return length if writing else done


@compiled
def _look(state: Any, samples: Any, row: Any, column: Any, channel: Any) -> Any:
    """The neighbours Ra, Rb, Rc and Rd of a sample: left, above, above left, above right (A.2.1)."""
    columns, channels = state[COLUMNS], state[CHANNELS]
    line = columns * channels
    place = (row * columns + column) * channels + channel
    above = int(samples[place - line]) if row else 0
    right = int(samples[place - line + channels]) if row and column + 1 < columns else above
    if column:
        corner = int(samples[place - line - channels]) if row else 0
        return int(samples[place - channels]), above, corner, right
    return above, above, int(samples[place - 2 * line]) if row > 1 else 0, right


@compiled
def _run(writing: Any, data: Any, state: Any, samples: Any, exceptions: Any, row: Any, column: Any, first: Any, last: Any) -> Any:
    """A run and what ends it, of the parts from `first` to before `last`; the column behind (A.7)."""
    columns, channels, near, run = state[COLUMNS], state[CHANNELS], state[NEAR], RUN + first
    line = row * columns
    length = 0
    while writing and column + length < columns:
        if state[NEXT] < state[EXCEPTIONS] and exceptions[state[NEXT]] == line + column + length:
            state[NEXT] += 1
            break
        alike = True
        for part in range(first, last):
            left, _, _, _ = _look(state, samples, row, column, state[ORDER + part])
            place = (line + column + length) * channels + state[ORDER + part]
            alike = alike and abs(int(samples[place]) - left) <= near
        if not alike:
            break
        length += 1
    length = _run_length(writing, data, state, length, columns - column, run)
    if state[FAILED]:
        return columns
    for part in range(first, last):
        left, _, _, _ = _look(state, samples, row, column, state[ORDER + part])
        for i in range(column, column if writing else column + length):
            samples[(line + i) * channels + state[ORDER + part]] = left
    column += length
    if column == columns:
        return column
    within = True
    for part in range(first, last):
        place = (line + column) * channels + state[ORDER + part]
        left, above, _, _ = _look(state, samples, row, column, state[ORDER + part])
        kind = 1 if last - first == 1 and abs(left - above) <= near else 0
        sample = _interrupting(writing, data, state, int(samples[place]), left, above, kind, _J[state[run]])
        samples[place] = sample
        within = within and abs(sample - left) <= near
    if within and near and not writing:
        exceptions[state[EXCEPTIONS]] = line + column
        state[EXCEPTIONS] += 1
    if state[run]:
        state[run] -= 1
    return column + 1


@compiled
def _code(writing: Any, data: Any, state: Any, samples: Any, exceptions: Any, regions: Any) -> Any:
    """All lines of a scan: of one component after the other, or of all at once."""
    columns, channels, most = state[COLUMNS], state[CHANNELS], state[MAXVAL]
    together = state[PARTS] if state[BY_SAMPLE] else 1
    for row in range(state[ROWS]):
        for first in range(0, state[PARTS], together):
            last, column = first + together, 0
            while column < columns:
                flat = True
                for part in range(first, last):
                    left, above, corner, right = _look(state, samples, row, column, state[ORDER + part])
                    index = 81 * regions[right - above + most] + 9 * regions[above - corner + most]
                    index += regions[corner - left + most]
                    flat = flat and index == 0
                    low, high = min(left, above), max(left, above)
                    state[FOUND + 2 * part] = index
                    state[FOUND + 2 * part + 1] = low if corner >= high else high if corner <= low else left + above - corner
                if flat:
                    column = _run(writing, data, state, samples, exceptions, row, column, first, last)
                    continue
                for part in range(first, last):
                    place = (row * columns + column) * channels + state[ORDER + part]
                    index, expected = state[FOUND + 2 * part], state[FOUND + 2 * part + 1]
                    samples[place] = _regular(writing, data, state, int(samples[place]), index, expected)
                column += 1
            if state[FAILED]:
                return
