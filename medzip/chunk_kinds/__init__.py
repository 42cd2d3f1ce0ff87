"""Lossless codecs for a chunk, by the name that the chunk's header holds. A new one is a new file and a line here."""

from __future__ import annotations

from medzip.chunk_kinds.contract import ChunkKind
from medzip.chunk_kinds.jpeg_xl import JpegXl
from medzip.chunk_kinds.numeric import Numeric
from medzip.chunk_kinds.stored import Stored
from medzip.chunk_kinds.zstd import Zstd

KINDS: dict[str, ChunkKind] = {kind.name: kind for kind in (JpegXl(), Numeric(), Zstd(), Stored())}

__all__ = ["KINDS", "ChunkKind"]
