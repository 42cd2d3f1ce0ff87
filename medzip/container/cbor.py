"""The part of CBOR (RFC 8949) that archives use: maps with text keys, arrays, text, bytes, integers, floats, booleans, null.

Written in the canonical order of RFC 7049 section 3.9 (shorter keys first, then bytewise), so that equal contents give
equal bytes. Read strictly: tags, indefinite lengths, repeated keys, deep nesting and trailing bytes are refused, because
none of them is ever written and each has been a way to attack decoders.
"""

from __future__ import annotations

import io
from typing import Any, NoReturn

import cbor2

from medzip.errors import ArchiveDamagedError, UnsupportedArchiveError

MAXIMUM_DEPTH = 16

# One byte of CBOR (an empty map) can become 72 bytes of Python objects and list slots; lists grow by spare slots.
EXPANSION = 128


class _NoTags(dict[int, Any]):
    def __missing__(self, tag: int) -> NoReturn:
        raise ValueError("a CBOR tag")


def encode(value: Any) -> bytes:
    """Canonical CBOR of maps, lists, text, bytes, numbers, booleans and None."""
    return bytes(cbor2.dumps(value, canonical=True))


def decode(data: bytes, what: str, memory_limit: int) -> Any:
    """The value whose CBOR is `data`; `what` names it in errors.

    Raises UnsupportedArchiveError where the objects could need more than `memory_limit` bytes, ArchiveDamagedError where
    `data` is not one item of the allowed kind.
    """
    if len(data) * EXPANSION > memory_limit:
        raise UnsupportedArchiveError(
            f"{what}: expected at most {memory_limit // EXPANSION} bytes of CBOR, found {len(data)}; raise the memory limit"
        )
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            max_depth=MAXIMUM_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NoTags(),
        ).decode()
    except Exception as error:
        raise ArchiveDamagedError(f"{what}: expected CBOR, found something else; restore the archive from a copy") from error
    if stream.tell() != len(data):
        raise ArchiveDamagedError(
            f"{what}: expected {stream.tell()} bytes of CBOR, found {len(data)}; restore the archive from a copy"
        )
    return value
