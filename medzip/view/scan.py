"""What the page asks of an archive: what it holds, slices as they are stored, headers, and how chunks were coded.

One thing is decoded at a time, and the archive keeps the last two chunks: so much memory and no more is used, however many ask.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import asdict
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import stacks
from medzip.archive import Archive
from medzip.chunks import MODEL
from medzip.container.reader import ChunkEntry
from medzip.entropy_model.contract import ChunkHeader
from medzip.entropy_model.registry import entropy_model
from medzip.errors import UnsupportedArchiveError
from medzip.lazy_volume import LazyVolume
from medzip.view.headers import Table, printable, table
from medzip.volume import Deflated, FileSkeleton, Literal, Segment
from medzip.weights import registry

MEMORY_LIMIT = 1 << 30
"""In bytes; twice what the largest chunk of an encoder takes."""
LONGEST_BLOBS = 1 << 28
ASPECT_MAX = 20.0
PIXEL = "pixel"
"""The entropy model that can tell what each sample costs."""
COSTLY_SAMPLES = 1 << 25
"""Of larger chunks nobody is told: all that a decoder would know of them takes too much memory."""


class Scan:
    """An open archive, safe to use from several threads; all methods raise what `medzip.archive.Archive` raises."""

    def __init__(self, path: Path, *, show_patient: bool = False) -> None:
        self.show_patient = show_patient
        self._archive = Archive(path, memory_limit=MEMORY_LIMIT)
        self._lock = threading.Lock()
        self._files: list[FileSkeleton] | None = None
        self._costs: tuple[int, Callable[[int], NDArray[np.float32]]] | None = None

    def close(self) -> None:
        self._archive.close()

    @property
    def volumes(self) -> list[LazyVolume]:
        return self._archive.volumes

    def summary(self) -> dict[str, Any]:
        """The archive, its volumes and their chunks, as JSON-able data; nothing is decoded but the headers."""
        with self._lock:
            archive = self._archive
            return {
                "name": printable(Path(archive.name).name) if self.show_patient else "",
                "about": {
                    key: printable(str(archive.head.get(key, ""))) for key in ("medzip", "preset", "guarantee", "portable")
                },
                "files": len(archive.files),
                "original_bytes": sum(record.get("original", record)["bytes"] for record in archive.files),
                "archive_bytes": archive.reader.sections[-1].end,
                "patient_shown": self.show_patient,
                "volumes": [self._volume(index) for index in range(len(archive.volumes))],
            }

    def samples(self, volume: int, index: int) -> bytes:
        """A slice (rows, columns[, 3]), little endian, in C order; floats of 16 bits as floats of 32."""
        with self._lock:
            samples: NDArray[Any] = self.volumes[volume][index]
        return np.ascontiguousarray(samples, _sent(samples.dtype)).tobytes()

    def bits(self, volume: int, index: int) -> bytes:
        """What each voxel of a slice costs in bits, all its colours together: little-endian float32 (rows, columns).

        Raises UnsupportedArchiveError where the chunk was coded in another way than by the pixel model.
        """
        with self._lock:
            shape = self.volumes[volume].shape
            colours = self.volumes[volume].planes // shape[0]
            bits = np.zeros(shape[1:3], np.float32)
            for plane in range(colours * index, colours * (index + 1)):
                number, entry = self._chunk_of(volume, plane)
                if self._costs is None or self._costs[0] != number:
                    self._costs = number, self._costs_of(number, entry)
                bits += self._costs[1](plane - (entry.first or 0))
        return bits.astype("<f4").tobytes()

    def header(self, volume: int, index: int) -> dict[str, Any]:
        """The header of the file that holds a slice."""
        with self._lock:
            number, found = self._header(volume, index)
            name = self._skeleton()[number].name if number is not None and self.show_patient else ""
        return {
            "file": number,
            "name": printable(name),
            "format": found.format,
            "note": found.note,
            "rows": [asdict(row) for row in found.rows],
            "hidden": sum(row.value is None for row in found.rows),
        }

    def _volume(self, index: int) -> dict[str, Any]:
        volume = self.volumes[index]
        _, header = self._header(index, 0)
        return {
            "shape": list(volume.shape),
            "dtype": _sent(volume.dtype).str,
            "stored": volume.dtype.name,
            "aspect": _aspect(volume.affine),
            "upside_down": header.format == "NIfTI" and _rows_go_up(volume.affine),
            "chunks": self._chunks(index),
        }

    def _chunks(self, index: int) -> list[dict[str, Any]]:
        """How each chunk of a volume was coded, in the order of its slices."""
        reader, volume = self._archive.reader, self.volumes[index]
        colours = volume.planes // len(volume)
        found = []
        for number, entry in enumerate(reader.chunks):
            if entry.volume != index or entry.first is None or entry.count is None:
                continue
            header, section = self._archive.header(number), entry.section
            size, base = section.end - section.offset, header.get("base")
            if base is not None and base["section"] in reader.bases:
                size += (under := reader.bases[base["section"]]).end - under.offset
            found.append(
                {
                    "first": entry.first // colours,
                    "end": -(-(entry.first + entry.count) // colours),
                    "kind": printable(header["kind"]),
                    "model": printable(header["model"]) if header["kind"] == MODEL else "",
                    "weights": _name_of(header.get("weights")),
                    "tells": self._tells(entry, header),
                    "bytes": size,
                    "bits": 8 * size / (entry.count * prod(volume.shape[1:3])),
                }
            )
        return sorted(found, key=lambda chunk: chunk["first"])

    def _chunk_of(self, volume: int, plane: int) -> tuple[int, ChunkEntry]:
        """Number and entry of the chunk that holds a plane: as the archive was opened, there is one."""
        return next(
            (number, entry)
            for number, entry in enumerate(self._archive.reader.chunks)
            if entry.volume == volume and (entry.first or 0) <= plane < (entry.first or 0) + (entry.count or 0)
        )

    def _tells(self, entry: ChunkEntry, header: dict[str, Any]) -> bool:
        """Whether it can be told what the samples of a chunk cost."""
        by_pixel = header["kind"] == MODEL and header["model"] == PIXEL and "weights" in header
        by_pixel = by_pixel and not {"floats", "levels"} & header.keys()  # which stand for others
        size = (entry.count or 0) * prod(self.volumes[entry.volume or 0].shape[1:3])
        return by_pixel and size <= COSTLY_SAMPLES

    def _costs_of(self, number: int, entry: ChunkEntry) -> Callable[[int], NDArray[np.float32]]:
        """What the samples of a chunk cost, plane by plane."""
        header = self._archive.header(number)
        if not self._tells(entry, header):
            raise UnsupportedArchiveError("What each voxel costs can be told only of chunks that the pixel model coded.")
        volume, first, count = self.volumes[entry.volume or 0], entry.first or 0, entry.count or 0
        colours = volume.planes // len(volume)
        begin = first // colours
        planes = stacks.planes(volume[begin : -(-(first + count) // colours)])[first - begin * colours :][:count]
        model: Any = entropy_model(PIXEL, header["weights"].hex())
        costs: Callable[[int], NDArray[np.float32]] = model.costs(
            ChunkHeader(planes.shape, planes.dtype.str, header["side"], None), planes
        ).plane
        return costs

    def _header(self, volume: int, index: int) -> tuple[int | None, Table]:
        """Which file holds a slice, and what its header says; the other one of a pair may hold it."""
        try:
            files = self._skeleton()
        except UnsupportedArchiveError as error:
            return None, Table("", note=str(error))
        holder = next(
            (
                number
                for number, file in enumerate(files)
                for run in file.voxels
                if run.volume == volume and run.first <= index < run.first + run.count
            ),
            None,
        )
        if holder is None:
            return None, Table("", note="No file holds this slice.")
        found = table(_start(files[holder].segments), self.show_patient)
        if not found.format and len(files) == 2:
            found = table(_start(files[1 - holder].segments), self.show_patient)
        return holder, found

    def _skeleton(self) -> list[FileSkeleton]:
        if self._files is None:
            reader = self._archive.reader
            headers = (self._archive.header(number) for number, entry in enumerate(reader.chunks) if entry.volume is None)
            size = sum(header.get("bytes", 0) for header in headers)
            if size > LONGEST_BLOBS:
                raise UnsupportedArchiveError(f"Headers are not shown: what stands beside the voxels takes {size} bytes.")
            self._files = list(self._archive.skeleton().files)
        return self._files


def _start(segments: tuple[Segment, ...]) -> bytes:
    """All that stands before the first voxel of a file, in gzip or not."""
    if segments and isinstance(segments[0], Deflated):
        return _start(segments[0].segments)
    literals = (segment.data if isinstance(segment, Literal) else None for segment in segments)
    return b"".join(data for data in takewhile(lambda data: data is not None, literals) if data is not None)


def _sent(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In which dtype samples go to the page: its own, but that browsers have no arrays of 16-bit floats."""
    return np.dtype("<f4") if dtype == np.float16 else dtype.newbyteorder("<")


def _name_of(weights: bytes | None) -> str:
    """Of weights by their SHA-256, which stands for those that are not here."""
    if weights is None:
        return ""
    return next((entry.name for entry in registry.entries() if entry.sha256 == weights.hex()), weights.hex()[:16])


def _aspect(affine: NDArray[np.float64] | None) -> float:
    """Height of a voxel by its width; 1 where nothing sensible is known."""
    if affine is None:
        return 1.0
    with np.errstate(all="ignore"):
        width, height = np.linalg.norm(affine[:3, :2], axis=0)
        aspect = float(height / width)
    return aspect if math.isfinite(aspect) and 1 / ASPECT_MAX <= aspect <= ASPECT_MAX else 1.0


def _rows_go_up(affine: NDArray[np.float64] | None) -> bool:
    """Whether rows run to the front or to the head of the patient: NIfTI's axes point to the right, the front and the head."""
    if affine is None or not np.isfinite(affine).all():
        return False
    axis = int(np.abs(affine[:3, 1]).argmax())
    return axis > 0 and bool(affine[axis, 1] > 0)
