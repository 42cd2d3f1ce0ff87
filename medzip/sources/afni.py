"""AFNI datasets: .HEAD beside .BRIK (AFNI Attributes, README.attributes of the AFNI distribution)."""

from __future__ import annotations

import re
from math import prod
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, image

MAX_HEADER_BYTES = 1 << 24
ATTRIBUTE = re.compile(rb"^\s*type\s*=\s*(\S+)-attribute\s+name\s*=\s*(\S+)\s+count\s*=\s*(\d{1,9})\s", re.MULTILINE)
TYPES = {0: ("u1",), 1: ("i2",), 2: ("i4",), 3: ("f4",), 4: ("f8",), 5: ("f4", "f4"), 6: ("u1", "u1", "u1")}


def _integers(head: bytes, wanted: bytes, name: str) -> list[int]:
    """The values of an integer attribute."""
    for match in ATTRIBUTE.finditer(head):
        if match[1] == b"integer" and match[2] == wanted:
            values = head[match.end() :].split(None, int(match[3]))[: int(match[3])]
            if len(values) == int(match[3]) and all(re.fullmatch(rb"-?\d{1,18}", value) for value in values):
                return [int(value) for value in values]
    raise broken(name, f"integers in {wanted.decode('ascii')}", "none")


class AfniSource(ImageSource):
    """One volume for all sub-bricks in a row of one type: columns, rows and slices are the file's first three axes."""

    name = "afni"
    header_suffixes = (".head",)

    def detect(self, head: bytes) -> bool:
        return ATTRIBUTE.match(head) is not None

    def partners(self, file: BinaryIO, name: str) -> tuple[str, ...]:  # noqa: ARG002, every format is called with all of these
        stem = PurePosixPath(name).stem
        return (f"{stem}.BRIK", f"{stem}.brik")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        head = file.read(MAX_HEADER_BYTES)
        axes = _integers(head, b"DATASET_DIMENSIONS", name)[:3]
        bricks = _integers(head, b"DATASET_RANK", name)[1:2]
        types = _integers(head, b"BRICK_TYPES", name)
        if len(axes) != 3 or min(axes) < 1 or bricks != [len(types)]:
            raise broken(name, "three axes of positive length and a type for each sub-brick", "others")
        if not set(types) <= TYPES.keys():
            return []
        order = ">" if re.search(rb"'MSB_FIRST~", head) else "<"
        images: list[Image] = []
        first = offset = 0
        for end in range(1, len(types) + 1):
            if end == len(types) or types[end] != types[first]:
                words = tuple(np.dtype(order + word) for word in TYPES[types[first]])
                images.append(image(offset, [end - first, *axes[::-1]], words))
                offset += (end - first) * prod(axes) * sum(word.itemsize for word in words)
                first = end
        return images
