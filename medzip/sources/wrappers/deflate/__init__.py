"""Deflate streams (RFC 1951) as content and side information, and rebuilt from both byte for byte.

A writer's decisions (which matches, which blocks, which codes) follow from the content by its algorithm. The algorithms are
written down here, as integer arithmetic that never changes: what they predict costs next to nothing, and only where the
stream differs does the side information say so. The way is that of preflate and precomp; the code is medzip's own.
FORMAT.md, section 19, says what the side information holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from medzip.errors import ArchiveDamagedError

MOST_CONTENT_BYTES = (1 << 31) - (1 << 16)
MOST_SIDE_SHARE = 4


def taken_apart(
    data: bytes,
    *,
    raw: bool = False,
    most: int = MOST_CONTENT_BYTES,
    places: Sequence[tuple[int, int, int]] = (),
    name: str = "deflate",
) -> tuple[bytes, bytes] | None:
    """The content of a gzip file (all members), a zlib stream or a bare deflate stream (`raw`), and the side information.

    With `places`, `data` are several zlib or bare streams and what lies between them: (start, end, bytes of content) of each,
    in order. `rebuilt` was found to give `data` from both. None where the data are damaged or of another kind, where they hold
    more than `most` bytes, or where the side information would be more than a quarter of the data.
    """
    from medzip.sources.wrappers.deflate.framing import framed, placed
    from medzip.sources.wrappers.deflate.sides import side_of

    most = min(most, MOST_CONTENT_BYTES)
    found = placed(data, raw, places, most) if places else framed(data, raw, most)
    if found is None:
        return None
    side = side_of(data, found, len(data) // MOST_SIDE_SHARE)
    if side is None:
        return None
    try:
        return (found.content, side) if rebuilt(found.content, side, name) == data else None
    except ArchiveDamagedError:
        return None


def rebuilt(content: bytes, side: bytes, name: str = "deflate") -> bytes:
    """The bytes that `taken_apart` got. Raises ArchiveDamagedError, naming `name`, where the two do not belong together."""
    from medzip.sources.wrappers.deflate.blocks import DamagedError
    from medzip.sources.wrappers.deflate.sides import rebuild

    try:
        return rebuild(content, side)
    except (DamagedError, IndexError, ValueError, OverflowError) as error:
        raise ArchiveDamagedError(
            f"{name}: expected side information that rebuilds a deflate stream, found other data; restore it from a copy"
        ) from error
