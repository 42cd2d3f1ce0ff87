"""Philips PAR/REC, research image export V4, V4.1 and V4.2: a table of slices as text beside their samples."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np

from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, image

MAX_HEADER_BYTES = 1 << 26
TITLE = re.compile(rb"\s*# === DATA DESCRIPTION FILE")
VERSION = re.compile(rb"Research image export tool\s+V4(?:\.[12])?\s")
PLACE, BITS, COLUMNS, ROWS = 6, 7, 9, 10
"""Columns of the table: index in the REC file in images, image pixel size in bits, recon resolution x and y."""


class ParRecSource(ImageSource):
    """One volume: the slices in the order of the REC file, which is seldom that of space or time."""

    name = "par_rec"
    header_suffixes = (".par",)

    def detect(self, head: bytes) -> bool:
        return TITLE.match(head) is not None

    def partners(self, file: BinaryIO, name: str) -> tuple[str, ...]:  # noqa: ARG002, every format is called with all of these
        stem = PurePosixPath(name).stem
        return (f"{stem}.REC", f"{stem}.rec", f"{stem}.Rec")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        head = file.read(MAX_HEADER_BYTES)
        if not VERSION.search(head):
            return []
        lines = (line.split() for line in head.splitlines() if line.strip() and line.strip()[:1] not in (b"#", b"."))
        try:
            table = [[int(line[column]) for column in (PLACE, BITS, ROWS, COLUMNS)] for line in lines]
        except (ValueError, IndexError) as error:
            raise broken(name, "whole numbers for place, bits and size of each slice", "something else") from error
        formats = {tuple(line[1:]) for line in table}
        if sorted(line[0] for line in table) != list(range(len(table))):
            raise broken(name, "a table that names each slice of the REC file once", "another")
        if len(formats) != 1:
            return []
        [(bits, rows, columns)] = formats
        if bits not in (8, 16) or min(rows, columns) < 1:
            raise broken(name, "slices of positive size with 8 or 16 bits", "others")
        return [image(0, (len(table), rows, columns), (np.dtype(f"<u{bits // 8}"),))]
