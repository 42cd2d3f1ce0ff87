"""Reed-Solomon parity over the bytes that everything in an archive hangs on.

Reed-Solomon code over GF(2^8), polynomial 0x11D, generator element 2, first root 2^0: systematic codewords of up to 239
data and 16 parity bytes, so eight damaged bytes in each can be repaired without knowing where they are (6.7 % at full
length). The data lie in rows, one byte of each codeword per row; neighbouring bytes belong to different codewords, and
with at least eight codewords any burst of 64 bytes can be repaired, with more codewords eight times their number.

Encoding is numpy, all codewords at once; reedsolo (public domain) decodes the damaged codewords only. Of a sidecar
(`medzip.container.sidecar`) whole sectors are missing, the same symbols of thousands of codewords: these are solved for at once.
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
    encoder = Encoder(PARITY_SYMBOLS, codewords(len(data)))
    for row in _rows(data):
        encoder.add(row)
    return encoder.parity.tobytes()


class Encoder:
    """Parity of rows that come one after the other: uint8 of shape (columns,), one byte of each codeword; at most 16 symbols.

    All parity symbols of a codeword are 16 bytes, two machine words, so that one step takes two look-ups for each of its bytes.
    """

    def __init__(self, symbols: int, columns: int) -> None:
        self._symbols = symbols
        self._low, self._high = np.zeros((2, columns), "<u8")
        products = np.zeros((256, 16), np.uint8)
        products[:, :symbols] = _generator_products(symbols).T
        self._low_products, self._high_products = np.ascontiguousarray(products.view("<u8").T)

    def add(self, row: NDArray[np.uint8]) -> None:
        feedback = row ^ self._low.astype(np.uint8)
        self._low >>= 8
        self._low |= self._high << 56
        self._low ^= self._low_products[feedback]
        self._high >>= 8
        self._high ^= self._high_products[feedback]

    @property
    def parity(self) -> NDArray[np.uint8]:
        """(symbols, columns), the highest power first."""
        words = np.stack([self._low, self._high], axis=1)
        return np.ascontiguousarray(words.view(np.uint8).reshape(len(words), 16)[:, : self._symbols].T)


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


def fill(rows: NDArray[np.uint8], symbols: int, erased: list[int]) -> bool:
    """Computes the rows that are `erased`, at most `symbols` of them, in their place. `rows` is uint8 (data and parity
    symbols, columns), one codeword a column.

    False where the rows do not agree: then one is wrong that is not called erased. As all codewords miss the same symbols,
    one system of equations holds for all: with zeros in their place, syndrome j is the sum of erased symbols times 2^(j p),
    p being the power that a symbol's row stands for (Lin and Costello, Error Control Coding, chapter 7).
    """
    rows[erased] = 0
    exponential, _ = _powers()
    syndromes = np.zeros((symbols, rows.shape[1]), np.uint8)
    roots = _products()[exponential[:symbols]]
    for row in rows:
        syndromes = np.take_along_axis(roots, syndromes.astype(np.intp), axis=1) ^ row
    powers = [len(rows) - 1 - index for index in erased]
    matrix = [[exponential[j * power % 255] for power in powers] for j in range(symbols)]
    for index, weights in zip(erased, _inverse(matrix[: len(erased)]), strict=True):
        for weight, syndrome in zip(weights, syndromes, strict=False):
            rows[index] ^= _products()[weight][syndrome]
    rest = syndromes[len(erased) :].copy()
    for line, remainder in zip(matrix[len(erased) :], rest, strict=True):
        for weight, index in zip(line, erased, strict=True):
            remainder ^= _products()[weight][rows[index]]
    return not rest.any()


def _inverse(matrix: list[list[int]]) -> list[list[int]]:
    """The inverse of a square matrix over the field that has one (Gauss and Jordan)."""
    _, logarithm = _powers()
    size = len(matrix)
    lines = [[*line, *(int(i == j) for j in range(size))] for i, line in enumerate(matrix)]
    for column in range(size):
        pivot = next(i for i in range(column, size) if lines[i][column])
        lines[column], lines[pivot] = lines[pivot], lines[column]
        factor = _powers()[0][-logarithm[lines[column][column]] % 255]
        lines[column] = [_multiply(factor, element) for element in lines[column]]
        for i in range(size):
            if i != column and (times := lines[i][column]):
                lines[i] = [a ^ _multiply(times, b) for a, b in zip(lines[i], lines[column], strict=True)]
    return [line[size:] for line in lines]


@functools.cache
def _powers() -> tuple[list[int], dict[int, int]]:
    """Powers of 2 in the field, and their exponents."""
    exponential = [1]
    while len(exponential) < 255:
        doubled = exponential[-1] << 1
        exponential.append(doubled ^ _POLYNOMIAL if doubled > 255 else doubled)
    return exponential, {element: exponent for exponent, element in enumerate(exponential)}


def _multiply(a: int, b: int) -> int:
    exponential, logarithm = _powers()
    return exponential[(logarithm[a] + logarithm[b]) % 255] if a and b else 0


@functools.cache
def _products() -> NDArray[np.uint8]:
    """(256, 256): each field element times each other."""
    return np.array([[_multiply(a, b) for b in range(256)] for a in range(256)], np.uint8)


@functools.cache
def _generator_products(symbols: int) -> NDArray[np.uint8]:
    """(symbols, 256): each coefficient of the generator polynomial, from the highest power but one down, times each element."""
    exponential, _ = _powers()
    generator = [1]
    for power in range(symbols):
        shifted, scaled = [*generator, 0], [0, *(_multiply(c, exponential[power]) for c in generator)]
        generator = [a ^ b for a, b in zip(shifted, scaled, strict=True)]
    return _products()[generator[1:]]
