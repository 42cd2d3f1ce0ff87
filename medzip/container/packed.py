"""A structure (CBOR) and data behind it in one Zstandard frame: FORMAT.md, 4.3."""

from __future__ import annotations

import struct
from typing import Any

from medzip.container import cbor
from medzip.errors import ArchiveDamagedError

LARGEST = 1 << 31
LEVEL = 19
_LENGTH = struct.Struct("<I")


def pack(structure: Any, data: bytes) -> bytes:
    """u32 length of the structure, the structure, the data; as one Zstandard frame that states its content size."""
    import zstandard

    encoded = cbor.encode(structure)
    content = _LENGTH.pack(len(encoded)) + encoded + data
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, enable_ldm=True, source_size=len(content))
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def unpack(payload: bytes, where: str, memory_limit: int) -> tuple[Any, bytes]:
    """Structure and data. Raises ArchiveDamagedError where `payload` is something else, or needs more than `memory_limit` bytes;
    `where` names it in messages."""
    content = _decompress(payload, where, memory_limit)
    length = _LENGTH.unpack_from(content)[0] if len(content) >= _LENGTH.size else len(content)
    start = _LENGTH.size + length
    if start > len(content):
        raise _damaged(where)
    return cbor.decode(content[_LENGTH.size : start], where, memory_limit), content[start:]


def _decompress(payload: bytes, where: str, memory_limit: int) -> bytes:
    import zstandard

    try:
        size = zstandard.get_frame_parameters(payload).content_size
        if size > min(LARGEST, memory_limit):
            raise ArchiveDamagedError(f"{where}: expected at most {memory_limit} bytes, found {size}; raise the memory limit")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _damaged(where) from error


def _damaged(where: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{where}: expected a packed structure, found something else; restore the archive from a copy")
