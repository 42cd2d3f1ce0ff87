"""Reading through gzip (RFC 1952): several members in a row are one file, as the standard says."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from medzip.errors import StorageError, UnsupportedInputError

MAX_CONTENT_BYTES = 16 << 30  # deflate gains up to 1032:1, so a few megabytes can ask for all memory
PIECE_BYTES = 1 << 20


def start(data: bytes, length: int) -> bytes:
    """The first `length` bytes of the content, or as many as the start of a gzip file, `data`, gives; none for other data."""
    content = b""
    while data and len(content) < length:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            content += member.decompress(data, length - len(content))
        except zlib.error:
            break
        data = member.unused_data
    return content


def pieces(path: Path, name: str) -> Iterator[bytes]:
    """The decompressed content, in pieces of at most PIECE_BYTES, its checksums proved by the time the last one is there.

    Raises UnsupportedInputError where the gzip data is damaged or grows beyond MAX_CONTENT_BYTES, StorageError where
    the file cannot be read.
    """
    total = 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(PIECE_BYTES):
                total += len(piece)
                if total > MAX_CONTENT_BYTES:
                    raise UnsupportedInputError(
                        f"{name}: expected at most {MAX_CONTENT_BYTES} bytes inside gzip, found more; use guarantee 'file'"
                    )
                yield piece
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnsupportedInputError(
            f"{name}: expected intact gzip data, found damage after {total} bytes; use guarantee 'file' to keep it whole"
        ) from error
    except OSError as error:
        raise StorageError(f"{name}: expected a readable file, found: {error.strerror}; check permissions and disk") from error
