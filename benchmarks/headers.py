"""What the headers of a DICOM series cost: bytes of HEAD, FILE, SKEL and parity for each slice.

    python -m benchmarks.headers DATA/dev [--long SLICES] [--preset fast]

A line for each series below the folder, compressed as it is; and with --long, for each of them, a series of so many slices that
is made of its headers. There, SOPInstanceUIDs are random (2.25 and 128 bits in decimal, PS3.5 annex B.2), and file names are
these UIDs, so that nothing about them can be guessed; InstanceNumber counts; positions, SliceLocation and times advance evenly;
tube current, exposure and the largest value are random; private elements are those of the series, in turn; and the image is
16 x 16, as voxels are not what is measured. `a further slice` is what a slice of the second half costs, `once` is the rest.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import medzip

SECTIONS = ("HEAD", "FILE", "SKEL", "PARI")
SIDE = 16
UID_ROOT = "2.25."
MAGIC_AND_TAIL = 40
HEAD = """\
| series | slices | headers | HEAD | FILE | SKEL | blobs | PARI | a slice | a further slice | once |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


@dataclass(frozen=True)
class Line:
    """The archives of one series. `headers` is what its files are but for their pixel data, in bytes; `blobs` what of them is in
    chunks of their own; `further` bytes for each slice beyond the first half, where that was measured."""

    name: str
    slices: int
    headers: int
    sections: dict[str, int]
    blobs: int
    further: float | None = None

    @property
    def total(self) -> int:
        return sum(self.sections.values()) + self.blobs

    def __str__(self) -> str:
        cells = [f"{self.sections[section]:,}" for section in SECTIONS]
        cells.insert(3, f"{self.blobs:,}")
        further, once = "", ""
        if self.further is not None:
            further, once = f"{self.further:.1f}", f"{self.total - self.further * self.slices:,.0f}"
        per_slice = f"{self.total / self.slices:.1f}"
        return f"| {' | '.join([self.name, f'{self.slices:,}', f'{self.headers:,}', *cells, per_slice, further, once])} |"


def measured(folder: Path, name: str, preset: str) -> Line:
    """Compresses a series and adds up the sections of its archives."""
    sections, blobs, headers, slices = dict.fromkeys(SECTIONS, 0), 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        for made in medzip.compress(folder, Path(temporary, "out"), preset=preset):
            info = medzip.info(made.archive)
            for section in SECTIONS[:-1]:
                sections[section] += info["sections"][section]
            sections["PARI"] += info["archive_bytes"] - sum(info["sections"].values()) - MAGIC_AND_TAIL
            with medzip.open(made.archive) as archive:
                for entry in archive.reader.chunks:
                    blobs += entry.section.length if entry.volume is None else 0
                slices += len(archive.files)
                headers += made.original_bytes - sum(volume.planes * volume.plane_bytes for volume in archive.volumes)
    return Line(name, slices, headers, sections, blobs)


def long_series(folder: Path, target: Path, slices: int) -> None:
    """Writes a series of `slices` files into `target`, made of the headers of the series in `folder`."""
    import pydicom

    chance = random.Random(0)
    found = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    series = UID_ROOT + str(chance.getrandbits(128))
    for number in range(slices):
        header = found[number % len(found)]
        uid = UID_ROOT + str(chance.getrandbits(128))
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = uid
        header.file_meta.TransferSyntaxUID = _native(header.file_meta.TransferSyntaxUID)
        header.SeriesInstanceUID = series
        header.InstanceNumber = number + 1
        for name, value in _changes(header, number, chance):
            if name in header:
                setattr(header, name, value)
        header.Rows = header.Columns = SIDE
        header.PixelData = chance.randbytes(SIDE * SIDE * header.BitsAllocated // 8)
        header["PixelData"].VR = "OW"
        header["PixelData"].is_undefined_length = False
        header.save_as(target / f"{uid}.dcm")


def _native(syntax: Any) -> Any:
    from pydicom.uid import ExplicitVRLittleEndian

    return ExplicitVRLittleEndian if syntax.is_compressed else syntax


def _changes(header: Any, number: int, chance: random.Random) -> Iterator[tuple[str, Any]]:
    """What a scanner writes anew into each slice."""
    normal = np.cross(header.ImageOrientationPatient[:3], header.ImageOrientationPatient[3:])
    place, seconds = -812.5 + 1.25 * number, 36_000 + 0.35 * number
    time = f"{int(seconds // 3600):02}{int(seconds // 60 % 60):02}{seconds % 60:09.6f}"
    yield "ImagePositionPatient", [f"{start + place * step:.8g}" for start, step in zip((-250, -410.5, 0), normal, strict=True)]
    yield "SliceLocation", f"{place:g}"
    yield "ContentTime", time
    yield "AcquisitionTime", time
    yield "XRayTubeCurrent", chance.randrange(80, 500)
    yield "Exposure", chance.randrange(40, 250)
    yield "LargestImagePixelValue", chance.randrange(1000, 4096)


def lines(folder: Path, preset: str, long: int | None) -> Iterator[Line]:
    for series in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield measured(series, series.name, preset)
        if long:
            yield _long_line(series, preset, long)


def _long_line(series: Path, preset: str, slices: int) -> Line:
    """A long series, and the cost of a slice of its second half."""
    with tempfile.TemporaryDirectory() as temporary:
        long_series(series, Path(temporary), slices)
        whole = measured(Path(temporary), f"{series.name}, {slices} slices", preset)
        for path in sorted(Path(temporary).iterdir(), key=_instance)[slices // 2 :]:
            path.unlink()
        half = measured(Path(temporary), "", preset)
    further = (whole.total - half.total) / (whole.slices - half.slices)
    return Line(whole.name, whole.slices, whole.headers, whole.sections, whole.blobs, further)


def _instance(path: Path) -> int:
    import pydicom

    return int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headers")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--long", type=int)
    parser.add_argument("--preset", default="fast")
    given = parser.parse_args()
    print(HEAD)
    for line in lines(given.folder, given.preset, given.long):
        print(line, flush=True)


if __name__ == "__main__":
    main()
