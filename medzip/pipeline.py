"""The way of the data, top to bottom.

    file(s) --split--> skeleton + volumes --chunks--> coded chunks --container--> archive.tmp --prove--> archive

and the same arrows backwards. Every room is known here, and rooms know nothing of each other.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import medzip
from medzip import restore, skeleton, sources, stacks, tree
from medzip.archive import Archive
from medzip.chunks import MODEL, ChunkCoder, CodedChunk
from medzip.container.writer import ArchiveWriter
from medzip.errors import MedzipError, StorageError, UsageError, VerificationError
from medzip.presets import PRESETS, Preset
from medzip.restore import Restored
from medzip.volume import Volume, join

Progress = Callable[[str, int, int], None]
Paths = Path | str | Sequence[Path | str]
SUFFIX = ".mdz"


@dataclass(frozen=True)
class Compressed:
    """One archive that was made. `chunks` counts chunks by kind, `model_share` is the share of samples that the entropy model
    coded, `content_saving` estimates in bytes what guarantee 'content' would save (None: nothing to save)."""

    sources: tuple[str, ...]
    archive: str
    original_bytes: int
    archive_bytes: int
    samples: int
    guarantee: str
    preset: str
    portable: bool
    verified: bool
    removed: bool
    chunks: dict[str, int]
    model_share: float
    content_saving: int | None
    seconds: float


@dataclass(frozen=True)
class Verified:
    """An archive (or a folder of them) that was found good; `fast` means by checksums alone, nothing decoded."""

    archive: str
    files: int
    bytes: int
    fast: bool
    repaired: tuple[str, ...]
    seconds: float


def compress(
    sources: Paths,
    out: Path | str | None = None,
    *,
    preset: str = "default",
    models: str = "open",
    weights: str | None = None,
    guarantee: str = "file",
    jobs: int = 1,
    overwrite: bool = False,
    verify: bool = True,
    remove: bool = False,
    progress: Progress | None = None,
) -> list[Compressed]:
    """Make archives of files and folders, and prove each by decoding it before it gets its name.

    `out` ending in .mdz is that file; any other is a folder, made if need be, into which a source folder is mirrored; None
    is beside the source. `models` is 'open' or 'all' (research-only weights too), `weights` names one set explicitly.
    `remove` deletes the sources of an archive once a fresh process has read it back from its place.

    Raises UsageError, UnsupportedInputError, StorageError, ModelMissingError, VerificationError (medzip.errors).
    """
    options = locals() | {"sources": None, "out": None}
    del options["sources"], options["out"]
    return list(compress_each(sources, out, **options))


def compress_each(sources: Paths, out: Path | str | None = None, **options: Any) -> Iterator[Compressed]:
    """`compress`, giving each archive as it is finished."""
    named = [sources] if isinstance(sources, Path | str) else sources
    settings = _Settings(**options)
    for source in map(Path, named):
        if source.is_dir():
            yield from _compress_folder(source, None if out is None else Path(out), settings)
        else:
            yield _compress_file(source, None if out is None else Path(out), settings)


@dataclass
class _Settings:
    preset: str = "default"
    models: str = "open"
    weights: str | None = None
    guarantee: str = "file"
    jobs: int = 1
    overwrite: bool = False
    verify: bool = True
    remove: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"expected a preset of {', '.join(PRESETS)}, found {self.preset!r}")
        if self.remove and not self.verify:
            raise UsageError("expected verification where sources are to be removed, found it switched off")
        self.coder = ChunkCoder(PRESETS[self.preset], self.models, self.weights)
        if self.remove and not self.coder.requirements().portable:
            raise UsageError(
                f"preset {self.preset!r} makes archives that not every machine can decode: sources are not removed; "
                "use preset 'default'"
            )


def _compress_file(source: Path, out: Path | None, settings: _Settings) -> Compressed:
    [group] = sources.groups(source, settings.guarantee)
    if out is None:
        target = source.parent / group.name
    elif out.suffix == SUFFIX:
        target = out
    else:
        _make_folder(out)
        target = out / group.name
    made, _ = _compress_group(group, target, settings)
    return _removed(made, source, group) if settings.remove else made


def _compress_folder(source: Path, out: Path | None, settings: _Settings) -> Iterator[Compressed]:
    """All groups of a folder, then its manifest; what fails is raised when all others are done, and leaves no manifest."""
    if out is not None and out.suffix == SUFFIX:
        raise UsageError(f"{out}: expected a folder for the archives of a folder, found the name of one archive")
    target = source.absolute().parent / (source.absolute().name + SUFFIX) if out is None else out
    groups = sources.groups(source, settings.guarantee)
    _make_folder(target)
    if not settings.overwrite and (target / tree.MANIFEST).exists():
        raise UsageError(f"{target / tree.MANIFEST}: exists; choose another folder, or replace it with --overwrite")
    files: list[tree.TreeFile] = []
    finished: list[tuple[Compressed, sources.Group]] = []
    failures: list[MedzipError] = []
    for group in groups:
        archive = target.joinpath(*group.name.split("/"))
        try:
            _make_folder(archive.parent)
            made, table = _compress_group(group, archive, settings)
        except MedzipError as error:
            failures.append(error)
            continue
        files += [tree.TreeFile(record["name"], record["bytes"], record["sha256"].hex(), group.name) for record in table]
        if settings.remove:
            finished.append((made, group))
        else:
            yield made
    if failures:
        raise failures[0]
    tree.write(tree.describe(source, files), target, overwrite=settings.overwrite)
    for made, group in finished:
        yield _removed(made, source, group)


def _compress_group(group: sources.Group, target: Path, settings: _Settings) -> tuple[Compressed, list[dict[str, Any]]]:
    """One archive, proved and published; gives also its file table."""
    began = time.monotonic()
    progress = settings.progress or (lambda *_: None)
    with ArchiveWriter(target, overwrite=settings.overwrite) as writer:
        files, volumes = sources.read(group)
        table = _file_table(group)
        packed, blobs = skeleton.pack(files)
        requirements = settings.coder.requirements()
        writer.head(_head(settings, requirements, group, volumes))
        writer.files(table)
        writer.skeleton(packed)
        counts, by_model = dict[str, int](), 0
        for header, coded, samples in _coded(volumes, blobs, settings, progress):
            if coded.base is not None:
                header["base"] = {**coded.header["base"], "section": writer.base(coded.base)}
            writer.chunk(header, coded.payload)
            counts[header["kind"]] = counts.get(header["kind"], 0) + 1
            by_model += samples if header["kind"] == MODEL else 0
        writer.finish()
        if settings.verify:
            _prove(writer.temporary, {record["name"]: record["sha256"] for record in table}, settings.jobs, progress)
        size = writer.temporary.stat().st_size
        writer.publish()
    total = sum(volume.samples.size for volume in volumes)
    made = Compressed(
        sources=tuple(str(path) for _, path in group.files),
        archive=str(target),
        original_bytes=sum(record["bytes"] for record in table),
        archive_bytes=size,
        samples=total,
        guarantee=group.guarantee,
        preset=settings.preset,
        portable=requirements.portable,
        verified=settings.verify,
        removed=False,
        chunks=counts,
        model_share=by_model / total if total else 0.0,
        content_saving=_content_saving(group, size),
        seconds=time.monotonic() - began,
    )
    return made, table


def _head(settings: _Settings, requirements: Any, group: sources.Group, volumes: list[Volume]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "medzip": medzip.__version__,
        "preset": settings.preset,
        "guarantee": group.guarantee,
        "portable": requirements.portable,
        "licence_class": requirements.licence_class,
        "volumes": [_describe(volume) for volume in volumes],
    }
    if requirements.weights is not None:
        head["weights"] = bytes.fromhex(requirements.weights)
    if requirements.platform:
        head["platform"] = requirements.platform
    return head


def _describe(volume: Volume) -> dict[str, Any]:
    record: dict[str, Any] = {"shape": list(volume.samples.shape), "dtype": volume.samples.dtype.newbyteorder("<").str}
    if volume.affine is not None:
        record["affine"] = [float(number) for number in volume.affine.ravel()]
    return record


def _file_table(group: sources.Group) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file as it is to be restored, read from the disk once more, past every `split`."""
    table = []
    for name, pieces in sources.contents(group):
        digest, size = hashlib.sha256(), 0
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
        table.append({"name": name, "bytes": size, "sha256": digest.digest()})
    return table


def _coded(
    volumes: list[Volume], blobs: list[bytes], settings: _Settings, progress: Progress
) -> Iterator[tuple[dict[str, Any], CodedChunk, int]]:
    """All chunks in the order of the archive, with their full headers and how many samples they hold."""
    preset: Preset = PRESETS[settings.preset]
    jobs: list[tuple[dict[str, Any], Any]] = [
        ({"blob": number, "bytes": len(blob)}, np.frombuffer(blob, np.uint8).reshape(1, 1, -1))
        for number, blob in enumerate(blobs)
    ]
    for index, volume in enumerate(volumes):
        planes = stacks.planes(volume.samples)
        for first, count in stacks.chunks(len(planes), preset.planes_per_chunk):
            jobs.append(({"volume": index, "first": first, "count": count}, planes[first : first + count]))
    done, total = 0, sum(planes.size for _, planes in jobs)
    progress("compress", 0, total)

    def code(job: tuple[dict[str, Any], Any]) -> CodedChunk:
        place, planes = job
        return settings.coder.encode_bytes(planes) if "blob" in place else settings.coder.encode(planes)

    with ThreadPoolExecutor(settings.jobs) as pool:
        for (place, planes), coded in zip(jobs, _in_order(pool, code, jobs, 2 * settings.jobs), strict=True):
            yield {**place, **coded.header}, coded, planes.size
            done += planes.size
            progress("compress", done, total)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Sequence[Any], ahead: int) -> Iterator[Any]:
    """`pool.map`, with at most so many results waiting, so that coded chunks do not pile up in memory."""
    waiting = [pool.submit(work, item) for item in items[:ahead]]
    try:
        for following in [*items[ahead:], *[None] * min(ahead, len(items))]:
            future = waiting.pop(0)
            if following is not None:
                waiting.append(pool.submit(work, following))
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()


def _prove(path: Path, digests: dict[str, bytes], jobs: int, progress: Progress) -> None:
    """Decode an archive from the disk and compare every file with the SHA-256 of the original.

    Raises VerificationError where one differs.
    """
    with Archive(path) as archive:
        volumes = archive.decode(jobs)
        files = archive.skeleton().files
        if {file.name for file in files} != set(digests):
            raise VerificationError(f"{path}: expected {len(digests)} files, found others; keep the originals and report this")
        for number, file in enumerate(files):
            digest = hashlib.sha256()
            for piece in join(file, volumes):
                digest.update(piece)
            if digest.digest() != digests[file.name]:
                raise VerificationError(f"{file.name}: expected the bytes of the original, found others; the original is kept")
            progress("verify", number + 1, len(files))


def _content_saving(group: sources.Group, size: int) -> int | None:
    """What guarantee 'content' would save on a gzip file kept whole: as much as JPEG XL saves on the middle of its volume."""
    if (content := sources.content_size(group)) is None:
        return None
    [unpacked] = sources.groups(group.files[0][1], "content")
    _, volumes = sources.read(unpacked)
    coder, kept = ChunkCoder(PRESETS["default"], "open"), 0
    for volume in volumes:
        planes = stacks.planes(volume.samples)
        sample = planes[len(planes) // 2 :][:3]
        kept += round(coder.encode(sample).size * len(planes) / len(sample))
    samples = sum(volume.samples.nbytes for volume in volumes)
    return max(size - kept - (content - samples), 0)


def _removed(made: Compressed, root: Path, group: sources.Group) -> Compressed:
    """Remove an archive's sources after a fresh process has decoded it and found them unchanged."""
    before = [_identity(path) for _, path in group.files]
    against = root if root.is_dir() else root.parent
    call = [sys.executable, "-m", "medzip", "verify", made.archive, "--against", str(against), "--quiet"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    if result.returncode:
        raise VerificationError(
            f"{made.archive}: a fresh process could not prove it, nothing was removed: {result.stderr.strip()}"
        )
    for (name, path), identity in zip(group.files, before, strict=True):
        if _identity(path) != identity:
            raise VerificationError(f"{name}: expected an unchanged source, found it changed while it was archived; it is kept")
        try:
            path.unlink()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}; the archive is good, remove the source yourself") from error
    return Compressed(**{**made.__dict__, "removed": True})


def _identity(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; expected a folder, or leave to make one") from error


def decompress(
    archive: Path | str,
    folder: Path | str | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    salvage: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Bring the files of an archive, or of a folder of archives, back into `folder` (None: beside the archive).

    Nothing appears under its name before everything has been decoded and found to have the original's SHA-256. With
    `salvage` what is intact comes back, and `lost` says what does not; a volume of which slices are lost comes back with
    zeros in their place under a name that ends in .salvaged.

    Raises ArchiveDamagedError, ModelMismatchError, ModelMissingError, StorageError, UsageError (a file exists).
    """
    return restore.restore(Path(archive), None if folder is None else Path(folder), jobs, overwrite, salvage, progress)


def verify(
    archive: Path | str,
    *,
    against: Path | str | None = None,
    fast: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Verified:
    """Decode an archive, or all of a folder of archives, and compare every file with the SHA-256 it had.

    `against` is the source, or the folder that it lies in: its files are compared too, byte for byte. `fast` checks
    structure and checksums only, and decodes nothing.

    Raises VerificationError where bytes differ, and what `decompress` raises.
    """
    path, began = Path(archive), time.monotonic()
    report = progress or (lambda *_: None)
    names = restore.archives_of(path)
    files = size = 0
    repaired: list[str] = []
    for name in names:
        with Archive(name) as opened:
            if fast:
                opened.reader.check()
            else:
                digests = restore.digests_of(opened)
                if against is not None:
                    _compare_table(opened, path, Path(against))
                _prove(name, digests, jobs, report)
            files += len(opened.files)
            size += sum(int(record["bytes"]) for record in opened.files)
            repaired += opened.repaired
    return Verified(str(archive), files, size, fast, tuple(repaired), time.monotonic() - began)


def _compare_table(opened: Archive, archive: Path, against: Path) -> None:
    """Compare the sources on the disk with what the archive says of them; `_prove` compares that with what it decodes."""
    if not against.exists():
        raise StorageError(f"{against}: no such file or folder to compare with; check the path")
    if against.is_file() and len(opened.files) != 1:
        raise UsageError(f"{against}: expected a folder to compare {len(opened.files)} files with, found a file")
    for record in opened.files:
        source = against if against.is_file() else against.joinpath(*record["name"].split("/"))
        if opened.head.get("guarantee") == "content" and not source.exists():
            source = source.with_name(source.name + ".gz")
        if not source.is_file():
            raise VerificationError(f"{archive}: expected {source} to compare with, found no such file")
        group = sources.Group("", sources.STORED, ((record["name"], source),), opened.head.get("guarantee", "file"))
        if source.suffix != ".gz":
            group = sources.Group("", sources.STORED, ((record["name"], source),))
        [found] = _file_table(group)
        if found["sha256"] != record["sha256"]:
            raise VerificationError(f"{source}: expected the bytes that the archive holds, found others; keep both")


def open(archive: Path | str) -> Archive:
    """An archive to read from: `volumes` are array-likes whose slicing decodes only the chunks touched."""
    return Archive(Path(archive))


def info(archive: Path | str) -> dict[str, Any]:
    """What an archive says of itself, as JSON-able data; nothing is decoded."""
    with Archive(Path(archive)) as opened:
        reader, counts, by_model = opened.reader, dict[str, int](), 0
        for entry in reader.chunks:
            kind = str(entry.header["kind"])
            counts[kind] = counts.get(kind, 0) + 1
            if kind == MODEL and entry.volume is not None and entry.count is not None:
                rows, columns = opened.volumes[entry.volume].shape[1:3]
                by_model += entry.count * rows * columns
        sections: dict[str, int] = {}
        for section in reader.sections:
            sections[section.type] = sections.get(section.type, 0) + section.end - section.offset
        samples = sum(int(np.prod(volume.shape)) for volume in opened.volumes)
        head = dict(opened.head)
        weights, volumes = head.pop("weights", None), head.pop("volumes", [])
        return {
            **head,
            "weights": weights.hex() if isinstance(weights, bytes) else None,
            "archive_bytes": Path(archive).stat().st_size,
            "original_bytes": sum(int(record["bytes"]) for record in opened.files),
            "volumes": volumes,
            "samples": samples,
            "chunks": counts,
            "model_share": by_model / samples if samples else 0.0,
            "sections": sections,
            "repaired": list(opened.repaired),
            "files": [{**record, "sha256": record["sha256"].hex()} for record in opened.files],
        }
