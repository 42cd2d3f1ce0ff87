"""The committed tables behind every CDF: integers, made once by `tools/make_tables.py`, the same for ever.

A CDF table holds P(0 < Z < z) in units of 2^-28 at 4,097 equidistant z up to 8 (Gaussian) or 32 (logistic);
between them it is linear, behind the last one 2^27.
Octave tables hold 2^(i/16) and 2^(-i/16) in units of 2^-15.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ModelMissingError

Kind = Literal["gaussian", "logistic"]

CDF_ONE = 1 << 28
Z_BITS = 22
INTERVALS = 4096
SHA256 = "c17db2c86e2a558da9a25ef917b26e1ce7f4bfdb46e8d12d32e869c1944196f6"


@dataclass(frozen=True)
class HalfCdf:
    """P(0 < Z < z) for fixed-point z >= 0 in units of 2^-22 standard scales; `bits` of z lie within an interval."""

    values: NDArray[np.int64]
    slopes: NDArray[np.int64]
    bits: int

    def __call__(self, z: NDArray[np.int64]) -> NDArray[np.int64]:
        """In units of 2^-28, 0..2^27, same shape as `z`; never decreases with z."""
        # take() clips: behind the last entry the slope is 0, so what z has left does not matter.
        at = z >> self.bits
        result: NDArray[np.int64] = z & ((1 << self.bits) - 1)
        result *= self.slopes.take(at, mode="clip")
        result >>= self.bits
        result += self.values.take(at, mode="clip")
        return result


def _half_cdf(values: NDArray[np.int64], reach: int) -> HalfCdf:
    bits = ((reach << Z_BITS) // INTERVALS).bit_length() - 1
    return HalfCdf(values, np.diff(values, append=values[-1]), bits)


def _load() -> tuple[dict[Kind, HalfCdf], NDArray[np.int64], NDArray[np.int64]]:
    data = (Path(__file__).parent / "tables.bin").read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        found = hashlib.sha256(data).hexdigest()
        raise ModelMissingError(f"medzip/exact/tables.bin: expected SHA-256 {SHA256}, found {found}; install medzip again")
    table = np.frombuffer(data, "<i4").astype(np.int64)
    gaussian, logistic, octave, inverse_octave = np.split(table, np.cumsum([INTERVALS + 1, INTERVALS + 1, 16]))
    return {"gaussian": _half_cdf(gaussian, 8), "logistic": _half_cdf(logistic, 32)}, octave, inverse_octave


HALF_CDF, OCTAVE, INVERSE_OCTAVE = _load()

# Sixteenths of an octave of the mantissas 256..511, by comparison with the committed table.
MANTISSA_CODES = (np.arange(256, 512)[:, None] << 7 >= OCTAVE[None, :]).sum(axis=1).astype(np.int64) - 1


def octave_code(amount: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(16 log2(amount)) by the first 9 bits, for amounts from 1 to 2^62."""
    octave = np.searchsorted(1 << np.arange(63, dtype=np.int64), amount, side="right").astype(np.int64) - 1
    mantissa = np.where(octave < 8, amount << np.maximum(8 - octave, 0), amount >> np.maximum(octave - 8, 0))
    result: NDArray[np.int64] = 16 * octave + MANTISSA_CODES[mantissa & 255]
    return result
