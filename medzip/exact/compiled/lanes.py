"""Vectors of eight numbers in LLVM's IR that are written like numbers in Python."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

LANES = 8
I32, I64, F64 = ir.IntType(32), ir.IntType(64), ir.DoubleType()
VECTOR = ir.VectorType(I64, LANES)


class Lanes:
    """Eight numbers in LLVM's IR, or the results of eight comparisons, with Python's operators; int64 unless told otherwise."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _other(self, other: Lanes | int | float) -> Any:
        if isinstance(other, Lanes):
            return other.value
        return ir.Constant(self.value.type, [other] * LANES)

    def _int(self, operation: str, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, getattr(self.builder, operation)(self.value, self._other(other)))

    def __add__(self, other: Lanes | int) -> Lanes:
        return self._int("add", other)

    def __sub__(self, other: Lanes | int) -> Lanes:
        return self._int("sub", other)

    def __mul__(self, other: Lanes | int) -> Lanes:
        return self._int("mul", other)

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._int("and_", other)

    def __or__(self, other: Lanes | int) -> Lanes:
        return self._int("or_", other)

    def __xor__(self, other: Lanes | int) -> Lanes:
        return self._int("xor", other)

    def __lshift__(self, other: Lanes | int) -> Lanes:
        return self._int("shl", other)

    def __rshift__(self, other: Lanes | int) -> Lanes:
        return self._int("ashr", other)

    def unsigned_shift(self, other: Lanes | int) -> Lanes:
        return self._int("lshr", other)

    def compare(self, sign: str, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, self.builder.icmp_signed(sign, self.value, self._other(other)))

    def choose(self, yes: Lanes, no: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.select(self.value, yes.value, no.value))

    def cast(self, operation: str, element: Any) -> Lanes:
        return Lanes(self.builder, getattr(self.builder, operation)(self.value, ir.VectorType(element, LANES)))

    def float(self, operation: str, other: Lanes | float) -> Lanes:
        return self._int(operation, other)  # type: ignore[arg-type]  # ints only for the others

    def low_bits(self) -> Lanes:
        """The value, where it fits 32 bits: LLVM then multiplies 32 x 32 -> 64 bits, which is a third of the work."""
        return self.cast("trunc", I32).cast("sext", I64)

    def absolute(self) -> Lanes:
        negative = self >> 63
        return (self ^ negative) - negative

    def any(self) -> Any:
        mask = self.builder.bitcast(self.value, ir.IntType(LANES))
        return self.builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(LANES), 0))


def scratch(builder: Any, kind: Any) -> Any:
    """Memory of the function; `cgutils.alloca_once` would fill it with zeros in every call."""
    with builder.goto_entry_block():
        return builder.alloca(kind)


class Variable:
    """What changes in a loop."""

    def __init__(self, builder: Any, value: Lanes) -> None:
        self.builder, self.place = builder, scratch(builder, value.value.type)
        self.set(value)

    def get(self) -> Lanes:
        return Lanes(self.builder, self.builder.load(self.place))

    def set(self, value: Lanes) -> None:
        self.builder.store(value.value, self.place)


def minimum(a: Lanes, b: Lanes) -> Lanes:
    return a.compare("<", b).choose(a, b)


def maximum(a: Lanes, b: Lanes) -> Lanes:
    return a.compare(">", b).choose(a, b)


def floor_divide(dividend: Lanes, divisor: Lanes) -> Lanes:
    """Rounds towards minus infinity; exact for quotients up to 2^46: float64 guesses to within 2^-6, the rest corrects."""
    builder = dividend.builder
    guess = dividend.cast("sitofp", F64).float("fdiv", divisor.cast("sitofp", F64))
    kind = ir.FunctionType(guess.value.type, [guess.value.type])
    floor = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]  # numba's
        builder.module, kind, f"llvm.floor.v{LANES}f64"
    )
    quotient = Lanes(builder, builder.call(floor, [guess.value])).cast("fptosi", I64)
    rest = dividend - quotient * divisor
    return quotient + rest.compare(">=", divisor).cast("zext", I64) + rest.compare("<", 0).cast("sext", I64)


def as_float(value: Lanes) -> Lanes:
    """float64 of 0 <= value < 2^52."""
    return (value | 0x433 << 52).cast("bitcast", F64).float("fsub", 2.0**52)
