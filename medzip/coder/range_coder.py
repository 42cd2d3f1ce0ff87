"""The range coder: constriction's queue coder behind four functions.

A symbol is one of 16; its PMF is 16 integers that sum to 2^16. What constriction makes of them is fixed by the format
(FORMAT.md has the formula, `tests/test_coder.py` a decoder in pure Python): cumulative frequencies in 24 bits are
cdf[i] = floor(cum16[i] (2^24 - 16) / 2^16) + i, words have 32 bits, the state 64.

The coder cannot tell damage from data: check the payload's CRC before decoding it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip.errors import ArchiveDamagedError

SYMBOLS = 16
TOTAL = 1 << 16

# constriction writes no word where no symbol needed one; an empty payload stays the sign of a lost one.
_NO_SYMBOLS = bytes(4)


def _categorical() -> Any:
    import constriction

    return constriction.stream.model.Categorical(perfect=False)


def _probabilities(frequencies: NDArray[np.int64]) -> NDArray[np.float64]:
    # float64 holds every multiple of 2^-16 exactly; float32 input makes constriction write other words.
    return frequencies.astype(np.float64) / TOTAL


class Encoder:
    """Writes symbols, first in first out."""

    def __init__(self) -> None:
        self._coder: Any = None
        self._model: Any = None
        self._taken: bytes | None = None

    def encode(self, symbols: NDArray[np.int32], frequencies: NDArray[np.int64]) -> None:
        """Writes `symbols` (n,), each in 0..15, under `frequencies` (n, 16), each row >= 0 and summing to 2^16.

        Raises ValueError where the arrays break that, or a symbol has frequency 0.
        """
        if frequencies.shape != (len(symbols), SYMBOLS):
            raise ValueError(f"expected frequencies ({len(symbols)}, {SYMBOLS}), found {frequencies.shape}")
        if not len(symbols):
            return
        if self._coder is None:
            import constriction

            self._coder, self._model = constriction.stream.queue.RangeEncoder(), _categorical()
        if int(frequencies.sum()) != TOTAL * len(symbols):
            raise ValueError(f"every row of frequencies must sum to {TOTAL}")
        try:
            self._coder.encode(np.ascontiguousarray(symbols, np.int32), self._model, _probabilities(frequencies))
        except Exception as error:
            raise ValueError(f"the range coder refused the symbols: {error}") from error

    def take(self, payload: bytes) -> None:
        """Takes all symbols as a compiled coder has written them, which is then what `finish` gives."""
        self._taken = payload

    def finish(self) -> bytes:
        """All that was written: 32-bit words, little endian, never empty."""
        if self._taken is not None:
            return self._taken
        if self._coder is None:
            return _NO_SYMBOLS
        return bytes(self._coder.get_compressed().astype("<u4").tobytes()) or _NO_SYMBOLS


class Decoder:
    """Reads what an Encoder wrote, given the same frequencies in the same order; `data` is for compiled coders to read."""

    def __init__(self, data: bytes) -> None:
        """Raises ArchiveDamagedError where `data` is empty or no whole number of 32-bit words."""
        if not data or len(data) % 4:
            raise ArchiveDamagedError(
                f"coded payload: expected one or more words of 4 bytes, found {len(data)} bytes; restore the archive from a copy"
            )
        self.data = data
        self._coder: Any = None
        self._model: Any = None

    def decode(self, frequencies: NDArray[np.int64]) -> NDArray[np.int32]:
        """The next n symbols (n,) under `frequencies` (n, 16), rows summing to 2^16.

        Raises ArchiveDamagedError where the payload cannot hold such symbols; a damaged one may also give wrong ones.
        """
        if not len(frequencies):
            return np.zeros(0, np.int32)
        if self._coder is None:
            import constriction

            words = np.frombuffer(self.data, "<u4").astype(np.uint32)
            self._coder, self._model = constriction.stream.queue.RangeDecoder(words), _categorical()
        try:
            symbols: NDArray[np.int32] = self._coder.decode(self._model, _probabilities(frequencies))
        except Exception as error:
            raise ArchiveDamagedError(
                "coded payload: expected symbols of the chunk's model, found words that no encoder writes; "
                "restore the archive from a copy"
            ) from error
        return symbols

    def done(self) -> bool:
        """False where words are certainly left, which after the last symbol means damage; True proves nothing."""
        return self._coder is None or bool(self._coder.maybe_exhausted())
