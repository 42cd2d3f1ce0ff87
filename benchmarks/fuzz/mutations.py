"""Changes to valid bytes and structures: bits, lengths that lie, cuts, splices, values at the bounds of their types."""

from __future__ import annotations

import re
import struct
from random import Random
from typing import Any

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 512, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 24)
HUGE = tuple(sign * (1 << bits) - less for bits in (31, 32, 40, 62, 63, 64) for sign in (1, -1) for less in (0, 1))
WORDS = (b"0", b"-1", b"9" * 20, b"1e400", b"nan", b"-inf", b"", b" ", b"LIST", b"%03d", b"\\", b"../x", b"\0", b"\xff" * 4)
FORMATS = ("<B", "<H", ">H", "<I", ">I", "<q", ">q")
DTYPES = ("<u2", ">u2", "|u1", "<i2", "<i4", "<i8", "<f4", "<f8", "bits", "swapped")
TEXTS = ("", *DTYPES, "model", "zstd", "stored", "jpeg_xl", "numeric", "pixel", "parametric", "rle", "jpeg_ls")
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0.0,
    -1.5,
    float("nan"),
    float("inf"),
    b"",
    b"\0" * 4,
    "",
    "x",
    [],
    {},
    [0],
    {"x": 0},
    [[]],
)
_NUMBER = re.compile(rb"[0-9]+")
_VR = re.compile(rb"[A-Z]{2}")
_HEADER = (64, 348, 1024, 4096)


def mutated(data: bytes, random: Random, others: list[bytes]) -> bytes:
    """A few changes, most of them near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        reach = min(len(changed), random.choice((*_HEADER, len(changed))))
        place = random.randrange(reach + 1)
        random.choice(_CHANGES)(changed, place, random, others)
    return bytes(changed)


def _bit(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    if place < len(data):
        data[place] ^= 1 << random.randrange(8)


def _byte(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    if place < len(data):
        data[place] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))


def _number(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    form = random.choice(FORMATS)
    size = struct.calcsize(form)
    place -= place % random.choice((1, size))
    number = random.choice((*NUMBERS, *HUGE, len(data), len(data) - place))
    written = (number % (1 << 8 * size)).to_bytes(size, "little" if form[0] == "<" else "big")
    data[place : place + size] = written[: max(len(data) - place, 0)]


def _element_length(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    """The length behind a value representation of DICOM."""
    if found := _VR.search(data, place):
        written = random.choice((*NUMBERS, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFE, len(data))).to_bytes(8, "little")
        at = found.end() + random.choice((0, 0, 2))
        data[at : at + 2 * random.choice((1, 2))] = written[:2] if random.random() < 0.5 else written[:4]


def _digits(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    if found := _NUMBER.search(data, place):
        data[found.start() : found.end()] = random.choice((*WORDS, b"%d" % random.choice((*NUMBERS, *HUGE))))


def _word(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    word = random.choice(WORDS)
    data[place : place + random.choice((0, len(word)))] = word


def _cut_out(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    del data[place : place + random.choice((1, 2, 4, 8, 100))]


def _twice(data: bytearray, place: int, random: Random, _: list[bytes]) -> None:
    data[place:place] = data[place : place + random.choice((1, 2, 8, 64, 512))]


def _cut_off(data: bytearray, _place: int, random: Random, _: list[bytes]) -> None:
    del data[random.randrange(len(data) + 1) :]


def _splice(data: bytearray, place: int, random: Random, others: list[bytes]) -> None:
    if other := random.choice(others) if others else b"":
        start = random.randrange(len(other))
        size = random.choice((4, 16, 128, 1024, len(other)))
        data[place : place + random.choice((0, size))] = other[start : start + size]


_CHANGES = 2 * (_bit, _byte, _number, _element_length) + (_digits, _word, _cut_out, _twice, _cut_off, _splice)


def changed_value(value: Any, random: Random) -> Any:
    """A structure of maps, lists, numbers, texts and bytes with one thing changed somewhere in it."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed_value(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        place = random.randrange(len(value))
        before, behind = value[:place], value[place + 1 :]
        kind = random.random()
        if kind < 0.1:
            return before + behind
        if kind < 0.2:
            return [*before, value[place], value[place], *behind]
        if kind < 0.25:
            return [*before, value[place]] * random.choice((2, 1000))
        return [*before, changed_value(value[place], random), *behind]
    if type(value) is int and random.random() < 0.8:
        return random.choice((*NUMBERS, *HUGE, value + 1, value - 1, 2 * value))
    if isinstance(value, bytes) and random.random() < 0.9:
        return mutated(value, random, []) if random.random() < 0.9 else value * random.choice((0, 2, 100))
    if isinstance(value, str) and random.random() < 0.8:
        return random.choice((*TEXTS, value + "x", value[:-1], "../" + value, "a/b", "\0", "\u202e"))
    return random.choice(VALUES)
