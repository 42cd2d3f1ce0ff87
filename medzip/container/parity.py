"""Reed-Solomon parity over the bytes that everything in an archive hangs on.

Reed-Solomon code over GF(2^8), polynomial 0x11D, generator element 2, first root 2^0: systematic codewords of up to 239
data and 16 parity bytes, so eight damaged bytes in each can be repaired without knowing where they are (6.7 % at full
length). The data lie in rows, one byte of each codeword per row; neighbouring bytes belong to different codewords, and
with at least eight codewords any burst of 64 bytes can be repaired, with more codewords eight times their number.

Encoding is numpy, all codewords at once; reedsolo (public domain) decodes the damaged codewords only.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError

PARITY_SYMBOLS = 16
DATA_SYMBOLS = 255 - PARITY_SYMBOLS
MINIMUM_CODEWORDS = 8
_POLYNOMIAL = 0x11D


def codewords(length: int) -> int:
    """How many codewords protect `length` bytes."""
    return max(MINIMUM_CODEWORDS, -(-length // DATA_SYMBOLS))


def parity_length(length: int) -> int:
    """How many bytes of parity protect `length` bytes."""
    return PARITY_SYMBOLS * codewords(length)


def encode(data: bytes) -> bytes:
    """The parity of `data`: 16 rows of one byte for each codeword."""
    table = _generator_products()
    rows = _rows(data)
    remainder = np.zeros((PARITY_SYMBOLS, rows.shape[1]), np.uint8)
    for row in rows:
        feedback = row ^ remainder[0]
        remainder[:-1] = remainder[1:]
        remainder[-1] = 0
        remainder ^= table[:, feedback]
    return remainder.tobytes()


def repair(data: bytes, parity: bytes) -> bytes:
    """What `data` was when `parity` was computed, with up to eight wrong bytes in each codeword (data and parity).

    Raises ArchiveDamagedError where more is wrong. A heavily damaged codeword may, rarely, come back as a wrong one: the
    caller checks the CRCs.
    """
    from reedsolo import ReedSolomonError

    rows = _rows(data)
    stored = np.frombuffer(parity, np.uint8).reshape(PARITY_SYMBOLS, -1)
    expected = np.frombuffer(encode(data), np.uint8).reshape(PARITY_SYMBOLS, -1)
    codec = _codec()
    for column in np.flatnonzero((stored != expected).any(axis=0)):
        try:
            message = codec.decode(rows[:, column].tobytes() + stored[:, column].tobytes())[0]
        except ReedSolomonError as error:
            raise ArchiveDamagedError(
                f"expected at most {PARITY_SYMBOLS // 2} damaged bytes in a codeword, found more than parity can repair; "
                "restore the archive from a copy or salvage it"
            ) from error
        rows[:, column] = np.frombuffer(message, np.uint8)
    return rows.tobytes()[: len(data)]


def _rows(data: bytes) -> NDArray[np.uint8]:
    """`data` with zeros up to whole rows: (data symbols of a codeword, codewords)."""
    columns = codewords(len(data))
    rows = np.zeros((-(-len(data) // columns), columns), np.uint8)
    rows.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    return rows


@functools.cache
def _codec() -> Any:
    from reedsolo import RSCodec

    return RSCodec(PARITY_SYMBOLS, prim=_POLYNOMIAL)


@functools.cache
def _generator_products() -> NDArray[np.uint8]:
    """(16, 256): each coefficient of the generator polynomial, from x^15 down, times each field element."""
    exponential = [1]
    while len(exponential) < 255:
        doubled = exponential[-1] << 1
        exponential.append(doubled ^ _POLYNOMIAL if doubled > 255 else doubled)
    logarithm = {element: exponent for exponent, element in enumerate(exponential)}

    def multiply(a: int, b: int) -> int:
        return exponential[(logarithm[a] + logarithm[b]) % 255] if a and b else 0

    generator = [1]
    for power in range(PARITY_SYMBOLS):
        shifted, scaled = [*generator, 0], [0, *(multiply(c, exponential[power]) for c in generator)]
        generator = [a ^ b for a, b in zip(shifted, scaled, strict=True)]
    return np.array([[multiply(c, element) for element in range(256)] for c in generator[1:]], np.uint8)
