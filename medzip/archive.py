"""An archive to read from: volumes that decode what is asked of them, and the files that they came from."""

from __future__ import annotations

import contextlib
import functools
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medzip import skeleton, stacks
from medzip.chunks import BYTE_KINDS, checked_header, decode_chunk, in_order
from medzip.container.reader import MEMORY_LIMIT, ArchiveReader
from medzip.container.sections import is_natural
from medzip.errors import ArchiveDamagedError, UnsupportedArchiveError
from medzip.volume import PACKED, Skeleton, Volume, Voxels

REMEMBERED_CHUNKS = 2
SAMPLE_DTYPE = re.compile(r"\|[iu]1|<[iu][248]|<f[248]")


@dataclass(frozen=True)
class _Place:
    """Where planes of a volume lie: chunk number, its first plane, how many."""

    chunk: int
    first: int
    count: int


class LazyVolume:
    """A volume of an archive: indexing with slices along the first axis decodes only the chunks touched.

    `shape` is (slices, rows, columns[, 3]), `dtype` that of the stored samples, `affine` 4x4 in millimetres or None.
    Every access may raise ArchiveDamagedError, ModelMismatchError, ModelMissingError or StorageError.
    """

    def __init__(self, archive: Archive, index: int, record: dict[str, Any]) -> None:
        self._archive, self._index = archive, index
        shape, dtype, affine = record.get("shape"), record.get("dtype"), record.get("affine")
        if not (isinstance(shape, list) and all(is_natural(n) and n for n in shape)):
            raise archive.damaged(f"a shape of volume {index}")
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != stacks.PLANES_PER_STACK):
            raise archive.damaged(f"volume {index} as slices x rows x columns")
        if not (isinstance(dtype, str) and SAMPLE_DTYPE.fullmatch(dtype)):
            raise archive.damaged(f"a dtype of samples for volume {index}")
        if not (affine is None or (isinstance(affine, list) and [type(n) for n in affine] == [float] * 16)):
            raise archive.damaged(f"an affine of 16 numbers for volume {index}")
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.affine = None if affine is None else np.array(affine).reshape(4, 4)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def planes(self) -> int:
        """Slices, or colours of all frames: what chunks count."""
        return self.shape[0] * (stacks.PLANES_PER_STACK if self.ndim == 4 else 1)

    @property
    def plane_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        samples: NDArray[Any] = self[:]
        return samples if dtype is None else samples.astype(dtype, copy=bool(copy))

    def __getitem__(self, key: Any) -> Any:
        """What numpy's indexing gives; where the first index is an integer or a slice, only what it names is decoded."""
        first, *rest = key if isinstance(key, tuple) and key else (key,)
        if isinstance(first, int | np.integer) and not isinstance(first, bool):
            if not -len(self) <= first < len(self):
                raise IndexError(f"slice {first} of {len(self)}")
            begin = int(first) % len(self)
            return self._archive.slices(self._index, begin, begin + 1)[(0, *rest)]
        if not isinstance(first, slice):
            return self._archive.slices(self._index, 0, len(self))[key]
        wanted = range(*first.indices(len(self)))
        begin, end = (min(wanted), max(wanted) + 1) if wanted else (0, 0)
        samples = self._archive.slices(self._index, begin, end)
        picked = samples[wanted.start - begin :: wanted.step][: len(wanted)] if wanted else samples
        return picked[(slice(None), *rest)]


class Archive:
    """An open archive; a context manager. `volumes` hold the samples, `head` and `files` what the archive says of itself.

    What all else relies on is proved here: the file table, the volumes, and that chunks cover each of them exactly once
    (with `salvage`: not that they cover it). Raises what ArchiveReader raises.
    """

    def __init__(self, path: Path, *, memory_limit: int = MEMORY_LIMIT, salvage: bool = False) -> None:
        self._reader = (ArchiveReader.salvage if salvage else ArchiveReader)(path, memory_limit=memory_limit)
        self._memory_limit, self._salvage = memory_limit, salvage
        self.name = str(path)
        self.head, self.files = self._reader.head, self._reader.files
        self._remembered: OrderedDict[int, NDArray[Any]] = OrderedDict()
        try:
            self._check_files()
            self.volumes = [LazyVolume(self, i, record) for i, record in enumerate(self._volume_records())]
            self._places = self._find_places()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    @property
    def repaired(self) -> list[str]:
        """Sections that were damaged and that parity brought back."""
        return self._reader.repaired

    @property
    def lost(self) -> list[str]:
        """What `salvage` could not bring back."""
        return self._reader.lost

    @property
    def reader(self) -> ArchiveReader:
        return self._reader

    @property
    def digests(self) -> dict[str, bytes]:
        """SHA-256 of each file, by name."""
        return {record["name"]: record["sha256"] for record in self.files}

    def damaged(self, expected: str) -> ArchiveDamagedError:
        return ArchiveDamagedError(f"{self.name}: expected {expected}, found something else; restore the archive from a copy")

    def header(self, chunk: int) -> dict[str, Any]:
        """The header of a chunk, everything in it of its type."""
        entry = self._reader.chunks[chunk]
        return checked_header(entry.header, f"{self.name}: {entry}")

    def skeleton(self) -> Skeleton:
        """All files; with salvage those whose blobs are all there."""
        blobs: dict[int, bytes] = {}
        for number, entry in enumerate(self._reader.chunks):
            if entry.volume is None:
                self._add_blob(number, blobs)
        unpacked = skeleton.unpack(self._reader.skeleton, blobs, self.name, self._memory_limit)
        if len({file.name for file in unpacked.files}) != len(unpacked.files):
            raise self.damaged("file names that differ in SKEL")
        for file in unpacked.files:
            for voxels in file.voxels:
                self._check_voxels(voxels)
        return unpacked

    def slices(self, volume: int, first: int, end: int) -> NDArray[Any]:
        """Slices first:end of a volume, decoded from the chunks that hold them."""
        described = self.volumes[volume]
        colours = described.planes // len(described)
        low, high = first * colours, end * colours
        # Allocated are chunks, whose sizes were proved: the volume's own shape is only what HEAD says.
        parts = [np.empty((0, *described.shape[1:3]), described.dtype)]
        for place in self._places[volume]:
            begin, stop = max(place.first, low), min(place.first + place.count, high)
            if begin < stop:
                parts.append(self._chunk(volume, place)[begin - place.first : stop - place.first])
        if sum(map(len, parts)) != high - low:
            raise self.damaged(f"all of slices {first} to {end - 1} of volume {volume}")
        return stacks.samples(np.concatenate(parts), described.ndim == 4)

    def decode(self, jobs: int = 1) -> list[Volume]:
        """All volumes in memory; `jobs` chunks at a time."""
        volumes = []
        for index, described in enumerate(self.volumes):
            parts = list(in_order(functools.partial(self._chunk, index), self._places[index], jobs))
            volumes.append(Volume(stacks.samples(np.concatenate(parts), described.ndim == 4), described.affine))
        return volumes

    def intact_slices(self, volume: int) -> tuple[Volume, list[range]]:
        """What can be decoded of a volume, zeros elsewhere, and which slices are lost.

        Only damage is a loss: raises ModelMissingError or ModelMismatchError where another machine could decode more.
        """
        described = self.volumes[volume]
        intact: dict[_Place, NDArray[Any]] = {}
        for place in self._places[volume]:
            with contextlib.suppress(ArchiveDamagedError):
                intact[place] = self._chunk(volume, place)
        there = sum(place.count for place in intact)
        self._allow((described.planes - there) * described.plane_bytes, f"lost slices of volume {volume}")
        planes = np.zeros((described.planes, *described.shape[1:3]), described.dtype)
        found = np.zeros(described.planes, np.bool_)
        for place, samples in intact.items():
            planes[place.first : place.first + place.count] = samples
            found[place.first : place.first + place.count] = True
        gone = np.flatnonzero(~found.reshape(len(described), -1).all(axis=1))
        runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1)
        lost = [range(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
        return Volume(stacks.samples(planes, described.ndim == 4), described.affine), lost

    def _chunk(self, volume: int, place: _Place) -> NDArray[Any]:
        """Samples of a chunk (planes, rows, columns); the last few stay in memory."""
        with contextlib.suppress(KeyError):
            return self._remembered[place.chunk]
        described, header = self.volumes[volume], self.header(place.chunk)
        rows, columns = described.shape[1:3]
        shape = (place.count, rows, columns)
        self._allow(place.count * described.plane_bytes, f"volume {volume}, chunk from plane {place.first} on")
        base = self._reader.base_payload(header["base"]["section"]) if "base" in header else None
        where = f"{self.name}: {self._reader.chunks[place.chunk]}"
        samples = decode_chunk(header, self._reader.chunk_payload(place.chunk), base, shape, described.dtype, where)
        self._remembered[place.chunk] = samples
        while len(self._remembered) > REMEMBERED_CHUNKS:
            self._remembered.popitem(last=False)
        return samples

    def _add_blob(self, chunk: int, blobs: dict[int, bytes]) -> None:
        """Decodes a chunk that holds a blob; with salvage, one that is damaged is lost."""
        try:
            header = self.header(chunk)
            if "blob" not in header:
                return
            if header["kind"] not in BYTE_KINDS or header["blob"] in blobs:
                raise self.damaged(f"blobs of kind {' or '.join(BYTE_KINDS)}, each once")
            self._allow(header["bytes"], "a blob")
            payload = self._reader.chunk_payload(chunk)
            shape = (1, 1, header["bytes"])
            data = decode_chunk(header, payload, None, shape, np.dtype(np.uint8), f"{self.name}: blob {header['blob']}")
            blobs[header["blob"]] = data.tobytes()
        except ArchiveDamagedError as error:
            if not self._salvage:
                raise
            self.lost.append(str(error))

    def _allow(self, size: int, what: str) -> None:
        if size > self._memory_limit:
            raise UnsupportedArchiveError(
                f"{self.name}: {what}: expected at most {self._memory_limit} bytes, found {size}; raise the memory limit"
            )

    def _check_files(self) -> None:
        """Each file has a size, a SHA-256, and a name of its own that leads nowhere but into the folder of all."""
        for record in self.files:
            name, digest = record.get("name"), record.get("sha256")
            if not (
                isinstance(name, str) and is_natural(record.get("bytes")) and isinstance(digest, bytes) and len(digest) == 32
            ):
                raise self.damaged("name, size and SHA-256 of each file in FILE")
            if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
                raise self.damaged("names of files inside a folder (the archive may be hostile)")
            if "original" in record and not self._is_original(record["original"]):
                raise self.damaged("size and SHA-256 of each original file in FILE")
        if len(self.digests) != len(self.files):
            raise self.damaged("file names that differ in FILE")

    @staticmethod
    def _is_original(found: Any) -> bool:
        match found:
            case {"sha256": bytes(digest), "bytes": size, **others}:
                return is_natural(size) and len(digest) == 32 and "original" not in others
        return False

    def _check_voxels(self, segment: Voxels) -> None:
        """The segment takes slices that are there, in their own dtype, either byte order."""
        if segment.volume < len(self.volumes):
            described = self.volumes[segment.volume]
            dtypes = {described.dtype.newbyteorder("<").str, described.dtype.newbyteorder(">").str}
            if described.dtype == np.uint8 and not segment.planar:
                dtypes |= set(PACKED)
            inside = segment.first + segment.count <= len(described)
            if inside and segment.dtype in dtypes and (described.ndim == 4 or not segment.planar):
                return
        raise self.damaged("slices of a volume in SKEL")

    def _volume_records(self) -> list[dict[str, Any]]:
        records = self.head.get("volumes", [])
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise self.damaged("a list of volumes in HEAD")
        return records

    def _find_places(self) -> list[list[_Place]]:
        """The chunks of each volume in the order of its planes, which they cover without gap or overlap."""
        places: list[list[_Place]] = [[] for _ in self.volumes]
        for number, entry in enumerate(self._reader.chunks):
            if entry.volume is None or entry.first is None or entry.count is None:
                continue
            if entry.volume >= len(places) or entry.count == 0:
                raise self.damaged(f"chunks of {len(places)} volumes, none of them empty")
            places[entry.volume].append(_Place(number, entry.first, entry.count))
        for index, (described, chunks) in enumerate(zip(self.volumes, places, strict=True)):
            chunks.sort(key=lambda place: place.first)
            ends = [0, *(place.first + place.count for place in chunks)]
            gaps = [place.first - end for place, end in zip(chunks, ends, strict=False)] + [described.planes - ends[-1]]
            if min(gaps) < 0 or (any(gaps) and not self._salvage):
                raise self.damaged(f"chunks that cover volume {index} once")
        return places
