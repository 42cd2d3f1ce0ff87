"""Computes medzip/exact/tables.bin: the CDF and octave tables that every archive depends on.

    python tools/make_tables.py

Decimal arithmetic with 60 digits, so every machine gives the same integers. The file is int32, little endian, in the order
of `tables()`; its SHA-256 is checked when medzip loads it. A change of one entry is a new format version.
"""

from __future__ import annotations

import hashlib
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path

INTERVALS = 4096
CDF_BITS = 28
OCTAVE_BITS = 15
GAUSSIAN_REACH = 8
LOGISTIC_REACH = 32
TARGET = Path(__file__).resolve().parents[1] / "medzip" / "exact" / "tables.bin"


def pi() -> Decimal:
    """Machin's formula, 4 (4 arctan(1/5) - arctan(1/239))."""

    def arctan_of_inverse(n: int) -> Decimal:
        term = total = Decimal(1) / n
        k = 1
        while abs(term) > Decimal("1e-65"):
            term /= -n * n
            k += 2
            total += term / k
        return total

    return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))


def gaussian(z: Decimal) -> Decimal:
    """P(0 < Z < z) = density(z) (z + z^3/3 + z^5/(3 5) + ...), all terms positive (Abramowitz and Stegun 26.2.11)."""
    term = total = z
    k = 1
    while term > Decimal("1e-50"):
        k += 2
        term *= z * z / k
        total += term
    return total * (-z * z / 2).exp() / (2 * pi()).sqrt()


def logistic(z: Decimal) -> Decimal:
    """P(0 < X < z) of the standard logistic distribution."""
    return 1 / (1 + (-z).exp()) - Decimal("0.5")


def rounded(x: Decimal, bits: int) -> int:
    return int((x * 2**bits).to_integral_value(ROUND_HALF_EVEN))


def tables(step: int = 1) -> dict[str, list[int]]:
    """Every table (every `step`-th entry of the CDFs, for the test)."""
    with localcontext() as context:
        context.prec = 60
        points = [Decimal(i) / INTERVALS for i in range(0, INTERVALS + 1, step)]
        sixteenths = [Decimal(2) ** (Decimal(i) / 16) for i in range(16)]
        return {
            "gaussian": [rounded(gaussian(GAUSSIAN_REACH * p), CDF_BITS) for p in points],
            "logistic": [rounded(logistic(LOGISTIC_REACH * p), CDF_BITS) for p in points],
            "octave": [rounded(x, OCTAVE_BITS) for x in sixteenths],
            "inverse_octave": [rounded(1 / x, OCTAVE_BITS) for x in sixteenths],
        }


def main() -> None:
    data = b"".join(value.to_bytes(4, "little") for table in tables().values() for value in table)
    TARGET.write_bytes(data)
    print(TARGET, len(data), "bytes, SHA-256", hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
