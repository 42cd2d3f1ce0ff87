"""The writers whose decisions are predicted, as parameters of the match finders."""

from __future__ import annotations

from medzip.sources.wrappers.deflate.families import GREEDY, SLIDING, SLOW, WEIGHING
from medzip.sources.wrappers.deflate.matches import CRC32C, LONGEST, SHIFTED, TRIGRAM, WINDOW

LEAST = (0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
MOST = (3, (1 << 32) - 1, 16, LONGEST, LONGEST, LONGEST, LONGEST, 4096, 4096, WINDOW, WINDOW, 1, 1, 2, 1)
"""Between which numbers each parameter lies: no other can be a writer's, or be searched with in reasonable time."""
_MAX_DISTANCE = WINDOW - 262
_KNUTH, _LIBDEFLATE = 2654435761, 0x1E35A7BD
# zlib's configuration_table: (family, good_length, max_lazy, nice_length, max_chain) of levels 1 to 9.
_ZLIB = (
    (GREEDY, 4, 4, 8, 4),
    (GREEDY, 4, 5, 16, 8),
    (GREEDY, 4, 6, 32, 32),
    (SLOW, 4, 4, 16, 16),
    (SLOW, 8, 16, 32, 32),
    (SLOW, 8, 16, 128, 128),
    (SLOW, 8, 32, 128, 256),
    (SLOW, 32, 128, 258, 1024),
    (SLOW, 32, 258, 258, 4096),
)
# The same of zlib-ng 2.1 to 2.3, with matches of `shortest` bytes; max_lazy of
# deflate_medium is 16 times the table's, and level 2 is deflate_medium without a look ahead.
_ZLIB_NG = (
    (GREEDY, 4, 0, 0, LONGEST, 1),
    (SLIDING, 4, 4, 4, 8, 4),
    (SLIDING, 4, 4, 96, 16, 6),
    (SLIDING, 4, 4, 192, 32, 24),
    (SLIDING, 4, 8, 256, 32, 32),
    (SLIDING, 4, 8, 256, 128, 128),
    (SLOW, 3, 8, 32, 128, 256),
    (SLOW, 3, 32, 128, 258, 1024),
)
_MINIZ_PROBES = (6, 32, 16, 32, 128, 256, 512, 768, 1500)
_LIBDEFLATE_GREEDY = ((6, 10), (12, 14), (16, 30))
_LIBDEFLATE_LAZY = ((1, 16, 30), (1, 35, 65), (1, 100, 130), (2, 300, 258), (2, 600, 258))


def _zlib(hash_kind: int, hash_bits: int, shortest: int, too_far: int) -> list[tuple[int, ...]]:
    levels: list[tuple[int, ...]] = []
    for family, good, lazy, nice, depth in _ZLIB:
        farthest_three = too_far if family == SLOW else WINDOW
        search = (good, lazy, nice, depth, depth >> 2, _MAX_DISTANCE, farthest_three)
        levels.append((family, hash_kind, hash_bits, shortest, *search, 0, 0, 0, 0))
    return levels


def _zlib_ng() -> list[tuple[int, ...]]:
    levels: list[tuple[int, ...]] = []
    for family, shortest, good, lazy, nice, depth in _ZLIB_NG:
        search = (good, lazy, nice, depth, depth >> 2, _MAX_DISTANCE, WINDOW)
        levels.append((family, _KNUTH, 16, shortest, *search, 0, 0, int(depth > 24), 0))
    return [*levels, (SLOW, SHIFTED, 15, 3, 32, 258, 258, 4096, 1024, _MAX_DISTANCE, WINDOW, 0, 0, 0, 0)]


def _miniz() -> list[tuple[int, ...]]:
    levels: list[tuple[int, ...]] = [(GREEDY, TRIGRAM, 12, 3, 0, 0, LONGEST, 1, 1, WINDOW - 4, 8191, 0, 0, 0, 0)]
    for number, probes in enumerate(_MINIZ_PROBES):
        family, lazy = (GREEDY, LONGEST) if number < 2 else (SLOW, 128)
        depths = (1 + (probes + 2) // 3, 1 + ((probes >> 2) + 2) // 3)
        levels.append((family, SHIFTED, 15, 3, 32, lazy, LONGEST, *depths, WINDOW - LONGEST, 8191, 1, 0, 0, 0))
    return levels


def _libdeflate() -> list[tuple[int, ...]]:
    fastest = (GREEDY, _LIBDEFLATE, 15, 4, 0, LONGEST, 32, 2, 2, WINDOW - 1, WINDOW, 0, 0, 0, 0)
    greedy = [
        (GREEDY, _LIBDEFLATE, 16, 3, 0, LONGEST, nice, depth, depth, WINDOW - 1, 4096, 0, 1, 0, 1)
        for depth, nice in _LIBDEFLATE_GREEDY
    ]
    lazy = [
        (WEIGHING, _LIBDEFLATE, 16, 3, 0, LONGEST, nice, depth, depth, WINDOW - 1, 8192, 0, 1, ahead, 1)
        for ahead, depth, nice in _LIBDEFLATE_LAZY
    ]
    return [fastest, *greedy, *lazy]


CANDIDATES: tuple[tuple[int, ...], ...] = (
    *_zlib(SHIFTED, 15, 3, 4096),
    *_zlib(SHIFTED, 16, 3, 4096),
    *_zlib(CRC32C, 15, 4, WINDOW),
    *_zlib_ng(),
    *_libdeflate(),
    *_miniz(),
)


def checked(parameters: tuple[int, ...]) -> tuple[int, ...]:
    """`parameters` as they are; raises ValueError where they are no writer's."""
    if len(parameters) != len(MOST) or not all(map(int.__le__, LEAST, parameters)) or not all(map(int.__le__, parameters, MOST)):
        raise ValueError("parameters of a writer")
    return parameters
