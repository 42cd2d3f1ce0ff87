"""An archive to read from: volumes that decode what is asked of them, and the files that they came from."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
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
from medzip.lazy_volume import LazyVolume
from medzip.volume import PACKED, Skeleton, Volume, Voxels

REMEMBERED_CHUNKS = 2


@dataclass(frozen=True)
class _Place:
    """Where planes of a volume lie: chunk number, its first plane, how many."""

    chunk: int
    first: int
    count: int


class Archive:
    """An open archive; a context manager. `volumes` hold the samples, `head` and `files` what the archive says of itself.

    What all else relies on is proved here: the file table, the volumes, and that chunks cover each of them exactly once
    (with `salvage`: not that they cover it). Raises what ArchiveReader raises.
    """

    def __init__(self, path: Path | str, *, memory_limit: int = MEMORY_LIMIT, salvage: bool = False) -> None:
        self._reader = (ArchiveReader.salvage if salvage else ArchiveReader)(path, memory_limit=memory_limit)
        self._source = path
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

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        source = self._source.absolute() if isinstance(self._source, Path) else self._source
        return _reopened, (type(self), source, self._memory_limit, self._salvage, self.fingerprint)

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

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the SHA-256 of all files and the size of all sections: the same for the same archive only."""
        said = [sorted(self.digests.items()), [(section.type, section.offset) for section in self._reader.sections]]
        return hashlib.sha256(repr(said).encode()).hexdigest()

    @property
    def digests(self) -> dict[str, bytes]:
        """SHA-256 of each file, by name."""
        return {record["name"]: record["sha256"] for record in self.files}

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        return {record["name"]: record["bytes"] for record in self.files}

    def bounded(self, name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The bytes of a file, in pieces, as they are: a skeleton may take the same slices over and over.

        Raises ArchiveDamagedError before there are more of them than the file table says.
        """
        left = self.sizes.get(name)
        if left is None and not self._salvage:
            raise self.damaged("the files of the file table in SKEL")
        for piece in pieces:
            if left is not None and (left := left - len(piece)) < 0:
                raise self.damaged(f"files as long as the file table says ({name} is longer)")
            yield piece

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

    def slices(self, volume: int, numbers: range | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Slices of a volume by their numbers, which increase, decoded from the chunks that hold them."""
        described = self.volumes[volume]
        colours = described.planes // len(described)
        self._allow(described.plane_bytes, f"a slice of volume {volume}")
        # Allocated are chunks, whose sizes were proved: the volume's own shape is only what HEAD says.
        parts = [np.empty((0, *described.shape[1:3]), described.dtype)]
        for place in self._places[volume]:
            end = place.first + place.count
            wanted = _between(numbers, place.first // colours, -(-end // colours))
            if len(wanted):
                samples = self._chunk(volume, place)
                planes = (np.asarray(wanted)[:, None] * colours + np.arange(colours)).ravel()
                parts.append(samples[planes[(place.first <= planes) & (planes < end)] - place.first])
        if sum(map(len, parts)) != len(numbers) * colours:
            raise self.damaged(f"all slices of volume {volume} that are asked for")
        return stacks.samples(np.concatenate(parts), described.ndim == 4)

    def slices_per_chunk(self, volume: int) -> tuple[int, ...]:
        """How many slices begin in each chunk of a volume."""
        described = self.volumes[volume]
        colours = described.planes // len(described)
        ends = [-(-(place.first + place.count) // colours) for place in self._places[volume]]
        return tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False) if end > begin)

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


def _reopened(kind: type[Archive], source: Path | str, memory_limit: int, salvage: bool, fingerprint: str) -> Archive:
    """An archive that was pickled; raises ArchiveDamagedError where another lies in its place."""
    archive = kind(source, memory_limit=memory_limit, salvage=salvage)
    if archive.fingerprint != fingerprint:
        archive.close()
        raise archive.damaged("the archive that was pickled")
    return archive


def _between(numbers: range | NDArray[np.integer[Any]], low: int, high: int) -> range | NDArray[np.integer[Any]]:
    """Those of the numbers, which increase, that are at least `low` and below `high`."""
    if isinstance(numbers, range):
        begin, end = (max(-(-(limit - numbers.start) // numbers.step), 0) for limit in (low, high))
    else:
        begin, end = np.searchsorted(numbers, (low, high))
    return numbers[begin:end]
