"""Coding, decoding, comparing and timing: what one codec makes of the scans of a file or folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from medzip import skeleton, sources
from medzip.bench.codecs import ByteCodec, VoxelCodec, byte_codecs, to_unsigned
from medzip.errors import VerificationError
from medzip.sources import Group
from medzip.volume import Volume

GUARANTEE = "content"
"""A .nii.gz is measured by what is inside it; its gzip layer would be the same bytes in every row."""


@dataclass(frozen=True)
class Scan:
    """A group that holds voxels. `skeleton_bytes` is the size of what medzip codes beside them, `files` holds all bytes."""

    group: Group
    files: dict[str, bytes]
    volumes: list[Volume]
    skeleton_bytes: int

    @property
    def samples(self) -> int:
        return sum(volume.samples.size for volume in self.volumes)


@dataclass(frozen=True)
class Measured:
    """`encode_seconds` and `decode_seconds` are None where nothing was coded; `note` is for people."""

    bytes: int
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    note: str = ""


class _Stopwatch:
    """Adds up the time of all blocks that it is the context of."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.seconds += time.perf_counter() - self._began


def read_scans(path: Path) -> list[Scan]:
    """All groups of a file or folder that hold voxels, in memory."""
    return [scan for group in sources.groups(path, GUARANTEE) if (scan := _read_scan(group)).volumes]


def _read_scan(group: Group) -> Scan:
    files, volumes = sources.read(group)
    packed, blobs = skeleton.pack(skeleton.ordered(files))
    _, zstd = byte_codecs()
    skeleton_bytes = len(packed) + sum(len(zstd.encode(blob)) for blob in blobs)
    return Scan(group, {name: b"".join(pieces) for name, pieces in sources.contents(group)}, volumes, skeleton_bytes)


def by_bytes(codec: ByteCodec, scans: Sequence[Scan]) -> Measured:
    """Every file of the scans coded as it is."""
    encoding, decoding, size = _Stopwatch(), _Stopwatch(), 0
    for scan in scans:
        for name, data in scan.files.items():
            with encoding:
                coded = codec.encode(data)
            with decoding:
                decoded = codec.decode(coded)
            _demand(decoded == data, codec.name, name)
            size += len(coded)
    return Measured(size, encoding.seconds, decoding.seconds)


def by_voxels(codec: VoxelCodec, scans: Sequence[Scan]) -> Measured:
    """The volumes of the scans coded, skeletons added; volumes that no image codec takes (floats, 32 bits) are stored."""
    encoding, decoding, size, stored = _Stopwatch(), _Stopwatch(), 0, 0.0
    volumes = [(scan.group.name, volume.samples) for scan in scans for volume in scan.volumes]
    for name, samples in volumes:
        mapped = to_unsigned(samples)
        if mapped is None:
            size, stored = size + samples.nbytes, stored + samples.nbytes
            continue
        with encoding:
            coded = codec.encode(mapped.samples)
        with decoding:
            decoded = codec.decode(coded, mapped.samples.shape, mapped.samples.dtype)
        _demand(np.array_equal(mapped.original(decoded), samples), codec.name, name)
        size += sum(map(len, coded))
        stored += codec.stored_share(coded, mapped.samples) * samples.nbytes
    share = stored / sum(samples.nbytes for _, samples in volumes)
    note = f"{share:.0%} of the voxels stored" if share else ""
    return Measured(size + sum(scan.skeleton_bytes for scan in scans), encoding.seconds, decoding.seconds, note)


def by_medzip(path: Path, preset: str, models: str, scans: Sequence[Scan]) -> Measured:
    """medzip's own archives of the scans, as its users make them."""
    from medzip import pipeline

    decoding = _Stopwatch()
    with tempfile.TemporaryDirectory(prefix="medzip-bench-") as folder:
        archives, restored = Path(folder, "archives"), Path(folder, "restored")
        options = {"preset": preset, "models": models, "guarantee": GUARANTEE, "verify": False}
        made = [archive for archive in pipeline.compress_each(path, archives, **options) if archive.samples]
        for scan in scans:
            with decoding:
                pipeline.decompress(archives.joinpath(*scan.group.name.split("/")), restored)
            for name, data in scan.files.items():
                _demand(restored.joinpath(*name.split("/")).read_bytes() == data, f"medzip {preset}", name)
    share = sum(archive.model_share * archive.samples for archive in made) / sum(archive.samples for archive in made)
    encode_seconds = sum(archive.seconds for archive in made)
    note = f"{share:.0%} of the voxels by the model"
    return Measured(sum(archive.archive_bytes for archive in made), encode_seconds, decoding.seconds, note)


def _demand(same: bool, codec: str, name: str) -> None:
    if not same:
        raise VerificationError(f"{name}: expected {codec} to decode the original, found something else; do not use this codec")
