"""An archive to read from: volumes that decode what is asked of them, and the files that they came from."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from medzip import chunk_kinds, skeleton
from medzip.chunks import decode_chunk
from medzip.container.reader import MEMORY_LIMIT, ArchiveReader
from medzip.errors import ArchiveDamagedError, MedzipError
from medzip.volume import Skeleton, Volume

REMEMBERED_CHUNKS = 2


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
        try:
            self.shape = tuple(int(n) for n in record["shape"])
            self.dtype = np.dtype(record["dtype"])
            affine = record.get("affine")
            self.affine = None if affine is None else np.array(affine, np.float64).reshape(4, 4)
        except (KeyError, TypeError, ValueError) as error:
            raise archive.damaged(f"a description of volume {index}") from error
        if len(self.shape) not in (3, 4) or min(self.shape) < 1 or (len(self.shape) == 4 and self.shape[3] != 3):
            raise archive.damaged(f"volume {index} as slices x rows x columns")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        samples = self[:]
        return samples if dtype is None else samples.astype(dtype, copy=bool(copy))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Samples as numpy's basic slicing gives them; only the slices that the first index names are decoded."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            first, rest = slice(None), ([Ellipsis, *rest] if rest else [])
        if isinstance(first, slice):
            wanted = range(*first.indices(len(self)))
        else:
            wanted = range(*slice(first, first + 1 or None).indices(len(self)))
            if not wanted:
                raise IndexError(f"slice {first} of {len(self)}")
        if not wanted:
            return np.empty((0, *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        low, high = min(wanted), max(wanted) + 1
        samples = self._archive.slices(self._index, low, high)
        picked = samples[wanted.start - low :: wanted.step][: len(wanted)] if wanted.step > 0 else samples[::-1][:: -wanted.step]
        result: NDArray[Any] = picked[(slice(None), *rest)] if isinstance(first, slice) else picked[0][tuple(rest)]
        return result


class Archive:
    """An open archive; a context manager. `volumes` hold the samples, `head` and `files` what the archive says of itself."""

    def __init__(self, path: Path, *, memory_limit: int = MEMORY_LIMIT, salvage: bool = False) -> None:
        self._reader = (ArchiveReader.salvage if salvage else ArchiveReader)(path, memory_limit=memory_limit)
        self._memory_limit = memory_limit
        self.name = str(path)
        self.head, self.files = self._reader.head, self._reader.files
        self.volumes = [LazyVolume(self, i, record) for i, record in enumerate(self._volume_records())]
        self._places = self._find_places()
        self._remembered: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    @property
    def repaired(self) -> list[str]:
        return self._reader.repaired

    @property
    def lost(self) -> list[str]:
        """What `salvage` could not bring back."""
        return self._reader.lost

    @property
    def reader(self) -> ArchiveReader:
        return self._reader

    def damaged(self, expected: str) -> ArchiveDamagedError:
        return ArchiveDamagedError(f"{self.name}: expected {expected}, found something else; restore the archive from a copy")

    def skeleton(self) -> Skeleton:
        """All files; with salvage those whose blobs are all there."""
        blobs: dict[int, bytes] = {}
        for number, entry in enumerate(self._reader.chunks):
            if entry.volume is None and "blob" in (header := entry.header):
                blobs[int(header["blob"])] = self._blob(number, header)
        numbered = [blobs.get(i) for i in range(max(blobs, default=-1) + 1)]
        return skeleton.unpack(self._reader.skeleton, numbered, self.name, self._memory_limit)

    def slices(self, volume: int, first: int, end: int) -> NDArray[Any]:
        """Slices first:end of a volume, decoded from the chunks that hold them."""
        described = self.volumes[volume]
        colours = 3 if described.ndim == 4 else 1
        low, high, rows, columns = first * colours, end * colours, described.shape[1], described.shape[2]
        planes = np.empty((high - low, rows, columns), described.dtype)
        filled = 0
        for place in self._places[volume]:
            begin, stop = max(place.first, low), min(place.first + place.count, high)
            if begin < stop:
                planes[begin - low : stop - low] = self._chunk(volume, place)[begin - place.first : stop - place.first]
                filled += stop - begin
        if filled != high - low:
            raise self.damaged(f"all of slices {first} to {end - 1} of volume {volume}")
        if colours == 1:
            return planes
        return np.moveaxis(planes.reshape(end - first, 3, rows, columns), 1, -1)

    def decode(self, jobs: int = 1) -> list[Volume]:
        """All volumes in memory; `jobs` chunks at a time."""
        volumes = []
        for index, described in enumerate(self.volumes):
            with ThreadPoolExecutor(jobs) as pool:
                parts = list(pool.map(lambda place, index=index: self._chunk(index, place), self._places[index]))
            total = sum(len(part) for part in parts)
            if total != len(described) * (3 if described.ndim == 4 else 1):
                raise self.damaged(f"all slices of volume {index}")
            planes = np.concatenate(parts)
            if described.ndim == 4:
                planes = np.moveaxis(planes.reshape(len(described), 3, *described.shape[1:3]), 1, -1)
            volumes.append(Volume(planes, described.affine))
        return volumes

    def intact_slices(self, volume: int) -> tuple[Volume, list[range]]:
        """What can be decoded of a volume, zeros elsewhere, and which slices are lost."""
        described = self.volumes[volume]
        samples = np.zeros(described.shape, described.dtype)
        lost: list[range] = []
        for index in range(len(described)):
            try:
                samples[index] = self.slices(volume, index, index + 1)[0]
            except MedzipError:
                if lost and lost[-1].stop == index:
                    lost[-1] = range(lost[-1].start, index + 1)
                else:
                    lost.append(range(index, index + 1))
        return Volume(samples, described.affine), lost

    def _chunk(self, volume: int, place: _Place) -> NDArray[Any]:
        """Samples of a chunk (planes, rows, columns); the last few stay in memory."""
        if place.chunk in self._remembered:
            with contextlib.suppress(KeyError):  # another thread may have dropped it
                return self._remembered[place.chunk]
        entry, described = self._reader.chunks[place.chunk], self.volumes[volume]
        header = entry.header
        base = self._reader.base_payload(int(header["base"]["section"])) if "base" in header else None
        shape = (place.count, described.shape[1], described.shape[2])
        if place.count * shape[1] * shape[2] * described.dtype.itemsize > self._memory_limit:
            raise self.damaged(f"a chunk of at most {self._memory_limit} bytes")
        where = f"{self.name}: {entry}"
        samples = decode_chunk(header, self._reader.chunk_payload(place.chunk), base, shape, described.dtype, where)
        self._remembered[place.chunk] = samples
        while len(self._remembered) > REMEMBERED_CHUNKS:
            self._remembered.popitem(last=False)
        return samples

    def _blob(self, number: int, header: dict[str, Any]) -> bytes:
        size = header.get("bytes")
        if not isinstance(size, int) or not 0 <= size <= self._memory_limit or header.get("kind") not in chunk_kinds.KINDS:
            raise self.damaged("a blob's kind and length")
        payload = self._reader.chunk_payload(number)
        return decode_chunk(header, payload, None, (1, 1, size), np.dtype(np.uint8), f"{self.name}: blob").tobytes()

    def _volume_records(self) -> list[dict[str, Any]]:
        records = self.head.get("volumes", [])
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise self.damaged("a list of volumes in HEAD")
        return records

    def _find_places(self) -> list[list[_Place]]:
        places: list[list[_Place]] = [[] for _ in self.volumes]
        for number, entry in enumerate(self._reader.chunks):
            if entry.volume is None or entry.first is None or entry.count is None:
                continue
            if entry.volume >= len(places):
                raise self.damaged(f"chunks of {len(places)} volumes")
            places[entry.volume].append(_Place(number, entry.first, entry.count))
        return [sorted(chunks, key=lambda place: place.first) for chunks in places]
