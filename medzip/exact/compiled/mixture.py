"""PMFs of mixtures as vector code: eight intervals that are to be split at a time, one in each lane.

`medzip/exact/mixture.py` and `symbols.py` say what is computed; this is the same, bit by bit. Tables
are read by scalar loads: gather instructions are slower on many CPUs. Divisions are guessed in float64 and corrected.

A sheet is an int64 array (ROWS, COLUMNS) that lists intervals in columns: its first rows say what is to be split, the
others receive the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from medzip.coder.range_coder import SYMBOLS, TOTAL
from medzip.exact.compiled.lanes import (
    F64,
    I32,
    I64,
    LANES,
    VECTOR,
    Lanes,
    Variable,
    as_float,
    floor_divide,
    maximum,
    minimum,
    scratch,
)
from medzip.exact.mixture import POSITION_BITS
from medzip.exact.tables import HALF_CDF, INTERVALS, Kind

# So many columns of a sheet stay in a first-level cache, with the table.
COLUMNS = 48
COMPONENTS_MAX = 16

# Rows of a sheet: an interval, the cumulative masses at its ends, its mixture's weight and number, the exponent and the start of
# its split; then the split's edges, the cumulative masses there and the range coder's bounds.
START, END, CDF_START, CDF_END, TOTAL_WEIGHT, EXPONENT, FIRST, SAMPLE = range(8)
EDGES = 8
CDFS = EDGES + SYMBOLS + 1
BOUNDS = CDFS + SYMBOLS + 1
ROWS = BOUNDS + SYMBOLS + 1

# Rows of parameters for each component; a scale's inverse, the shift that follows and the weight share an int64.
MEAN, PACKED, SIGMA, PARAMETERS = range(4)
SHIFT_AT, WEIGHT_AT = 16, 32

_THIN_BITS = 14


def table_of(kind: Kind) -> NDArray[np.int32]:
    """The half CDF's 4,097 values, the last one twice: 64 bits from any of them hold two neighbours (little endian)."""
    values = HALF_CDF[kind].values
    return np.append(values, values[-1]).astype(np.int32)


@intrinsic
def prepare(_typing: Any, sheet: Any, _column: Any, parameters: Any, _sample: Any, _low: Any, _high: Any, _halves: Any) -> Any:
    """For compiled code: (sheet, column, parameters, sample, low, high, halves); nothing is checked.

    Puts samples `sample` to `sample` + 7, a multiple of 8, into columns `column` to `column` + 7.
    Their intervals are low..high, to be split around the mixtures' centres. parameters: int64 (K, PARAMETERS, multiple of 8).
    CDF_START and CDF_END are those of mixtures that lie far within +-2^33.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sheet, column, parameters, *numbers = _made(context, builder, signature, arguments)
        _Prepare(builder, sheet, column, parameters).emit(*numbers)
        return context.get_dummy_value()

    return types.void(sheet, types.int64, parameters, *[types.int64] * 4), emit


@intrinsic
def split(_typing: Any, sheet: Any, _column: Any, _count: Any, _equal: Any, parameters: Any, table: Any, _bits: Any) -> Any:
    """For compiled code: (sheet, column, count, equal, parameters, table, bits); nothing is checked.

    Splits the intervals in columns `column` to `column` + 7 into `count`; what is behind them is empty. Writes CDFS and BOUNDS 0
    to `count`. With `equal` not 0 it makes the EDGES too: edge i is FIRST + (i << EXPONENT), clipped to START..END;
    otherwise they are there. parameters: int64 (K, PARAMETERS, samples); table: of `table_of`; bits: of its `HalfCdf`.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sheet, column, count, equal, parameters, table, bits = _made(context, builder, signature, arguments)
        _Split(builder, sheet, column, parameters, count, equal, table, bits).emit()
        return context.get_dummy_value()

    return types.void(sheet, types.int64, types.int64, types.int64, parameters, table, types.int64), emit


def _made(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    return [
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


class _Sheet:
    """Access to eight columns of a sheet."""

    def __init__(self, builder: Any, sheet: Any, column: Any, parameters: Any) -> None:
        self.builder, self.sheet, self.column, self.parameters = builder, sheet, column, parameters

    def constant(self, value: int) -> Lanes:
        return Lanes(self.builder, ir.Constant(VECTOR, [value] * LANES))

    def iota(self) -> Lanes:
        return Lanes(self.builder, ir.Constant(VECTOR, list(range(LANES))))

    def splat(self, scalar: Any) -> Lanes:
        undefined = ir.Constant(VECTOR, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        first = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        return Lanes(self.builder, self.builder.shuffle_vector(single, undefined, first))

    def place(self, row: Any) -> Any:
        at = self.builder.add(self.builder.mul(row, ir.Constant(I64, COLUMNS)), self.column)
        return self.builder.bitcast(self.builder.gep(self.sheet.data, [at]), VECTOR.as_pointer())

    def row(self, row: int, i: Any = None) -> Any:
        number = ir.Constant(I64, row)
        return self.place(number if i is None else self.builder.add(number, i))

    def load(self, row: int, i: Any = None) -> Lanes:
        return Lanes(self.builder, self.builder.load(self.row(row, i), align=8))

    def store(self, value: Lanes, row: int, i: Any = None) -> None:
        self.builder.store(value.value, self.row(row, i), align=8)

    def element(self, memory: Any, i: Any) -> Any:
        return self.builder.gep(memory, [ir.Constant(I64, 0), i])

    def loop(self, start: int, stop: Any) -> Any:
        return cgutils.for_range_slice(self.builder, ir.Constant(I64, start), stop, ir.Constant(I64, 1), I64)

    def components(self) -> Any:
        """A loop over the components."""
        return self.loop(0, self.builder.extract_value(self.parameters.shape, 0))

    def parameter(self, component: Any, which: int) -> Any:
        """Where the samples' values of one of a component's parameters begin."""
        row = self.builder.add(self.builder.mul(component, ir.Constant(I64, PARAMETERS)), ir.Constant(I64, which))
        return self.builder.gep(
            self.parameters.data, [self.builder.mul(row, self.builder.extract_value(self.parameters.shape, 2))]
        )

    def variable(self, value: Lanes) -> Variable:
        return Variable(self.builder, value)


class _Prepare(_Sheet):
    """Emits `prepare`."""

    def emit(self, sample: Any, low: Any, high: Any, halves: Any) -> None:
        least, most = self.splat(low), self.splat(high)
        total, means, far = (self.variable(self.constant(0)) for _ in range(3))
        with self.components() as (component, _):
            weight = self.samples(component, PACKED, sample) >> WEIGHT_AT
            total.set(total.get() + weight)
            means.set(means.get() + self.samples(component, MEAN, sample) * weight)
        half = 1 << (POSITION_BITS - 1)
        middle = minimum(maximum((floor_divide(means.get(), total.get()) + half) >> POSITION_BITS, least), most)
        with self.components() as (component, _):
            offset = (self.samples(component, MEAN, sample) - (middle << POSITION_BITS)).absolute()
            term = minimum(self.samples(component, SIGMA, sample) + offset, self.constant(1 << 46))
            far.set(far.get() + term * (self.samples(component, PACKED, sample) >> WEIGHT_AT))
        reach = floor_divide(far.get(), total.get()) * self.splat(halves) >> (POSITION_BITS + 1)
        reach = minimum(reach, most - least + 1)
        # With 2^e <= reach < 2^(e + 1), of which float64 knows the e: 7 2^(e - 3) is less than reach, and 7 2^(e - 1) is more.
        octave = (as_float(reach).cast("bitcast", I64) >> 52) - (1023 + 2)
        octave = maximum(octave, self.constant(0))
        exponent = octave + reach.compare(">", self.constant(7) << octave).cast("zext", I64)
        weight = total.get()
        self.store(least, START)
        self.store(most + 1, END)
        self.store(self.constant(0) - (weight << 27), CDF_START)
        self.store(weight << 27, CDF_END)
        self.store(weight, TOTAL_WEIGHT)
        self.store(exponent, EXPONENT)
        self.store(middle - (self.constant(8) << exponent), FIRST)
        self.store(self.splat(sample) + self.iota(), SAMPLE)

    def samples(self, component: Any, which: int, sample: Any) -> Lanes:
        place = self.builder.gep(self.parameter(component, which), [sample])
        return Lanes(self.builder, self.builder.load(self.builder.bitcast(place, VECTOR.as_pointer()), align=8))


class _Split(_Sheet):
    """Emits `split`."""

    def __init__(
        self, builder: Any, sheet: Any, column: Any, parameters: Any, count: Any, equal: Any, table: Any, bits: Any
    ) -> None:
        super().__init__(builder, sheet, column, parameters)
        self.count, self.table, self.bits = count, table, self.splat(bits)
        self.equal = builder.icmp_signed("!=", equal, ir.Constant(I64, 0))
        kind = ir.ArrayType(VECTOR, SYMBOLS * COMPONENTS_MAX)
        self.places, self.rests, self.weights = (scratch(builder, kind) for _ in range(3))
        samples = self.load(SAMPLE)
        self.first_sample = builder.extract_element(samples.value, ir.Constant(I32, 0))
        self.scattered = samples.compare("!=", self.splat(self.first_sample) + self.iota()).any()

    def emit(self) -> None:
        with self.builder.if_then(self.equal):
            self.store_edges()
        with self.components() as (component, _):
            self.find(component)
        self.add_up()
        self.store_bounds(*self.store_frequencies())

    def store_edges(self) -> None:
        start, end, width = self.load(START), self.load(END), self.constant(1) << self.load(EXPONENT)
        edge = self.variable(self.load(FIRST))
        with self.loop(1, self.count) as (i, _):
            edge.set(edge.get() + width)
            self.store(minimum(maximum(edge.get(), start), end), EDGES, i)
        self.store(start, EDGES)
        self.store(end, EDGES, self.count)

    def of_samples(self, component: Any, which: int) -> Lanes:
        """One of the component's parameters for each lane's sample."""
        builder, samples, start = self.builder, self.load(SAMPLE), self.parameter(component, which)
        result = self.variable(self.constant(0))
        with builder.if_else(self.scattered, likely=False) as (then, otherwise):
            with then:
                found = ir.Constant(VECTOR, ir.Undefined)
                for lane in (ir.Constant(I32, i) for i in range(LANES)):
                    at = builder.gep(start, [builder.extract_element(samples.value, lane)])
                    found = builder.insert_element(found, builder.load(at), lane)
                result.set(Lanes(builder, found))
            with otherwise:
                place = builder.bitcast(builder.gep(start, [self.first_sample]), VECTOR.as_pointer())
                result.set(Lanes(builder, builder.load(place, align=8)))
        return result.get()

    def number(self, component: Any, i: Any) -> Any:
        return self.builder.add(self.builder.mul(component, ir.Constant(I64, SYMBOLS)), i)

    def find(self, component: Any) -> None:
        """Where in the table a component's half CDFs at the inner edges are, and what is left of z, negative below the mean."""
        builder = self.builder
        mean, packed = self.of_samples(component, MEAN), self.of_samples(component, PACKED)
        origin, inverse, shift = mean + (1 << (POSITION_BITS - 1)), packed & 0xFFFF, (packed >> SHIFT_AT) & 0xFF
        builder.store((packed >> WEIGHT_AT).value, self.element(self.weights, component))
        mask = (self.constant(1) << self.bits) - 1
        with self.loop(1, self.count) as (i, _):
            distance = ((self.load(EDGES, i) << POSITION_BITS) - origin) * inverse
            z, place = distance.absolute().unsigned_shift(shift), self.number(component, i)
            at = minimum(z.unsigned_shift(self.bits), self.constant(INTERVALS))
            builder.store(at.value, self.element(self.places, place))
            builder.store(((z & mask) ^ (distance >> 63)).value, self.element(self.rests, place))

    def look_up(self, places: Any) -> Lanes:
        """The table's values at eight places in the low halves, those behind them in the high halves."""
        builder = self.builder
        first, found = builder.bitcast(places, I64.as_pointer()), ir.Constant(VECTOR, ir.Undefined)
        for lane in range(LANES):
            place = builder.load(builder.gep(first, [ir.Constant(I64, lane)]))
            value = builder.bitcast(builder.gep(self.table.data, [place]), I64.as_pointer())
            found = builder.insert_element(found, builder.load(value, align=4), ir.Constant(I32, lane))
        return Lanes(builder, found)

    def add_up(self) -> None:
        """The cumulative masses of the mixtures at the inner edges; the given ones where an edge is an end of the interval."""
        start, end, at_start, at_end = (self.load(row) for row in (START, END, CDF_START, CDF_END))
        total = self.variable(self.constant(0))
        with self.loop(1, self.count) as (i, _):
            total.set(self.constant(0))
            with self.components() as (component, _):
                place = self.number(component, i)
                rest, weight = (
                    Lanes(self.builder, self.builder.load(self.element(memory, at)))
                    for memory, at in ((self.rests, place), (self.weights, component))
                )
                entry = self.look_up(self.element(self.places, place))
                negative, slope = rest >> 63, (entry >> 32) - entry
                # Up to 15 bits times up to 19, on top of 27 bits; behind the table the slope is 0.
                half = ((rest ^ negative).low_bits() * slope.low_bits()).unsigned_shift(self.bits) + entry
                total.set(total.get() + ((half ^ negative) - negative).low_bits() * weight.low_bits())
            edge = self.load(EDGES, i)
            inside = edge.compare("<", end).choose(total.get(), at_end)
            self.store(edge.compare("<=", start).choose(at_start, inside), CDFS, i)
        self.store(at_start, CDFS)
        self.store(at_end, CDFS, self.count)

    def store_frequencies(self) -> tuple[Lanes, Lanes]:
        """f = 1 + floor(mass (2^16 - 16) / total) to `rests`; gives their sum and which is the largest, the first of equals.

        Masses are below 2^52, so setting the exponent's bits and subtracting 2^52 makes them float64 exactly. The factor's
        relative error lies between -2^-49 and -2^-51, so that a guess lies below the true quotient (at most 2^16) by less than 1,
        and its floor is right or 1 too small: the rest tells which.
        """
        builder = self.builder
        total, zero = self.load(CDF_END) - self.load(CDF_START), self.constant(0)
        thin = total.compare("<", self.load(TOTAL_WEIGHT) << _THIN_BITS)
        divisor, filled, at, largest = (self.variable(value) for value in (total, zero, zero, zero))
        with builder.if_then(thin.any(), likely=False):
            divisor.set(thin.choose(self.count_live(), total))
        total = divisor.get()
        top = TOTAL - SYMBOLS
        numerator = Lanes(builder, ir.Constant(ir.VectorType(F64, LANES), [top * (1 - 2.0**-50)] * LANES))
        factor = numerator.float("fdiv", as_float(total))
        with self.loop(0, self.count) as (i, _):
            following = builder.add(i, ir.Constant(I64, 1))
            mass = thin.choose(self.live(i), self.load(CDFS, following) - self.load(CDFS, i))
            guess = as_float(mass).float("fmul", factor).cast("fptosi", I32).cast("sext", I64)
            rest = mass * top - guess * total
            frequency = guess + rest.compare(">=", total).cast("zext", I64) + 1
            builder.store(frequency.value, self.element(self.rests, i))
            larger = frequency.compare(">", largest.get())
            largest.set(larger.choose(frequency, largest.get()))
            at.set(larger.choose(self.splat(i), at.get()))
            filled.set(filled.get() + frequency)
        return filled.get(), at.get()

    def count_live(self) -> Lanes:
        """How many of the intervals hold a value."""
        lives = self.variable(self.constant(0))
        with self.loop(0, self.count) as (i, _):
            lives.set(lives.get() + self.live(i))
        return lives.get()

    def live(self, i: Any) -> Lanes:
        following = self.builder.add(i, ir.Constant(I64, 1))
        return self.load(EDGES, following).compare(">", self.load(EDGES, i)).cast("zext", I64)

    def store_bounds(self, filled: Lanes, largest: Lanes) -> None:
        """F of FORMAT.md, section 12; what is missing to 2^16 goes to the frequency of number `largest`."""
        builder = self.builder
        missing = self.splat(builder.add(self.count, ir.Constant(I64, TOTAL - SYMBOLS))) - filled
        cumulative = self.variable(self.constant(0))
        with self.loop(0, self.count) as (i, _):
            self.store(_bound(cumulative.get()) + self.splat(i), BOUNDS, i)
            frequency = Lanes(builder, builder.load(self.element(self.rests, i)))
            frequency = largest.compare("==", self.splat(i)).choose(frequency + missing, frequency)
            cumulative.set(cumulative.get() + frequency)
        self.store(_bound(cumulative.get()) + self.splat(self.count), BOUNDS, self.count)


def _bound(cumulative: Lanes) -> Lanes:
    """floor(c (2^24 - 16) / 2^16) = 2^8 c - ceil(c / 2^12)."""
    return (cumulative << 8) - ((cumulative + 4095) >> 12)
