"""The way of the data, top to bottom.

    file(s) --split--> skeleton + volumes --chunks--> coded chunks --container--> archive.tmp --prove--> archive

and the same arrows backwards. Every room is known here, and rooms know nothing of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import medzip
from medzip import describe, prove, restore, skeleton, sources, stacks, tree
from medzip.chunks import MODEL, ChunkCoder, CodedChunk, in_order
from medzip.container.writer import ArchiveWriter
from medzip.errors import MedzipError, StorageError, UsageError
from medzip.instances import Instances
from medzip.outputs import SUFFIX, destinations
from medzip.presets import PRESETS
from medzip.prove import Verified
from medzip.restore import Restored
from medzip.scan import Scan
from medzip.volume import Volume

Progress = Callable[[str, int, int], None]
Paths = Path | str | Sequence[Path | str]


@dataclass(frozen=True)
class Compressed:
    """One archive that was made. `chunks` counts chunks by kind, `model_share` is the share of samples that the entropy model
    coded, `content_saving` estimates in bytes what guarantee 'content' would save (None: nothing to save), `contradicting` names
    the DICOM files whose SOP Instance UID another file of the same call has too, with other bytes (all are kept)."""

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
    contradicting: tuple[str, ...]


def compress(
    sources: Paths,
    out: Path | str | None = None,
    *,
    preset: str = "default",
    models: str = "open",
    weights: str | None = None,
    guarantee: str = "file",
    encapsulated: str = "keep",
    jobs: int = 1,
    overwrite: bool = False,
    verify: bool = True,
    remove: bool = False,
    store: bool = False,
    progress: Progress | None = None,
) -> list[Compressed]:
    """Make archives of files and folders, and prove each by decoding it before it gets its name.

    `out` ending in .mdz is that file; any other is a folder, made if need be, into which a source folder is mirrored; None
    is beside the source. `models` is 'open' or 'all' (research-only weights too), `weights` names one set explicitly.
    `encapsulated` 'voxels' gives up the compression of DICOM files in lossless JPEG 2000, HTJ2K and JPEG XL: they are restored
    without it, with the same voxels.
    `remove` deletes the sources of an archive once a fresh process has read it back from its place. `store` takes files that
    nothing reads, whole. Of a pair of files (.hdr and .img) naming one is enough: both are archived, once.

    Raises UsageError, UnsupportedInputError, StorageError, ModelMissingError, VerificationError (medzip.errors).
    """
    options: dict[str, Any] = {"preset": preset, "models": models, "weights": weights, "guarantee": guarantee, "jobs": jobs}
    options |= {"encapsulated": encapsulated, "overwrite": overwrite, "verify": verify, "remove": remove, "store": store}
    options |= {"progress": progress}
    return list(compress_each(sources, out, **options))


def compress_each(sources: Paths, out: Path | str | None = None, **options: Any) -> Iterator[Compressed]:
    """`compress`, giving each archive as it is finished."""
    named = [Path(source) for source in ([sources] if isinstance(sources, Path | str) else sources)]
    settings = _Settings(**options)
    done: set[Path] = set()
    for source, target in zip(named, destinations(named, None if out is None else Path(out)), strict=True):
        if source.is_dir():
            yield from _compress_folder(source, target, settings)
        elif source.absolute() not in done:  # not the partner of one before
            made = _compress_file(source, target, settings)
            done |= {Path(name).absolute() for name in made.sources}
            yield made


@dataclass
class _Settings:
    preset: str = "default"
    models: str = "open"
    weights: str | None = None
    guarantee: str = "file"
    encapsulated: str = "keep"
    jobs: int = 1
    overwrite: bool = False
    verify: bool = True
    remove: bool = False
    store: bool = False
    progress: Progress | None = None
    archived: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"expected a preset of {', '.join(PRESETS)}, found {self.preset!r}")
        if self.remove and not self.verify:
            raise UsageError("expected verification where sources are to be removed, found it switched off")
        self.instances = Instances()
        self.coder = ChunkCoder(PRESETS[self.preset], self.models, self.weights)
        if self.remove and not self.coder.requirements().portable:
            raise UsageError(
                f"preset {self.preset!r} makes archives that not every machine can decode: sources are not removed; "
                "use preset 'default'"
            )


def _compress_file(source: Path, out: Path | None, settings: _Settings) -> Compressed:
    [group] = sources.groups(source, settings.guarantee, store=settings.store, encapsulated=settings.encapsulated)
    if out is None:
        target = source.parent / group.name
    elif out.suffix == SUFFIX:
        target = out
    else:
        _make_folder(out)
        target = out / group.name
    made, _ = _compress_group(group, target, settings)
    return _removed(made, source.parent, group) if settings.remove else made


def _compress_folder(source: Path, out: Path | None, settings: _Settings) -> Iterator[Compressed]:
    """All groups of a folder, then its manifest; what fails is raised when all others are done, and leaves no manifest."""
    if out is not None and out.suffix == SUFFIX:
        yield _compress_only_group(source, out, settings)
        return
    target = source.absolute().parent / (source.absolute().name + SUFFIX) if out is None else out
    groups = sources.groups(source, settings.guarantee, encapsulated=settings.encapsulated)
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
        files += [tree.TreeFile.of(record, group.name, made.guarantee) for record in table]
        finished.append((made, group))
        if not settings.remove:
            yield made
    if not failures:
        tree.write(tree.describe(source, files), target, overwrite=settings.overwrite)
    removing = not failures
    for made, group in finished if settings.remove else ():
        try:
            yield _removed(made, source, group) if removing else made
        except MedzipError as error:
            failures.append(error)
            yield made
    if failures:
        raise type(failures[0])("; ".join(map(str, failures)))


def _compress_only_group(source: Path, out: Path, settings: _Settings) -> Compressed:
    """A folder that holds one series, or one file, as one archive without a manifest."""
    groups = sources.groups(source, settings.guarantee, encapsulated=settings.encapsulated)
    if len(groups) != 1:
        raise UsageError(f"{out}: expected a folder for the {len(groups)} archives of {source}, found the name of one archive")
    made, _ = _compress_group(groups[0], out, settings)
    return _removed(made, source, groups[0]) if settings.remove else made


def _compress_group(group: sources.Group, target: Path, settings: _Settings) -> tuple[Compressed, list[dict[str, Any]]]:
    """One archive, proved and published; gives also its file table."""
    began, progress = time.monotonic(), settings.progress or _silent
    with ArchiveWriter(target, overwrite=settings.overwrite) as writer:
        files, volumes = sources.read(group)
        files = skeleton.ordered(files)
        places = {file.name: place for place, file in enumerate(files.files)}
        table = sorted(prove.file_table(group), key=lambda record: places[record["name"]])
        if group.guarantee == "voxels" and not any("original" in record for record in table):
            group = replace(group, guarantee="file")
        packed, blobs = skeleton.pack(files)
        writer.head(_head(settings, group, volumes))
        writer.files(table)
        writer.skeleton(packed)
        counts, by_model = dict[str, int](), 0
        for header, coded, samples in _coded(group.name, volumes, blobs, settings, progress):
            if coded.base is not None:
                header["base"] = {**coded.header["base"], "section": writer.base(coded.base)}
            writer.chunk(header, coded.payload)
            counts[header["kind"]] = counts.get(header["kind"], 0) + 1
            by_model += samples if header["kind"] == MODEL else 0
        writer.finish()
        if settings.verify:
            prove.prove_written(writer.temporary, table, settings.jobs, progress)
        size = writer.temporary.stat().st_size
        saving = None if volumes else _content_saving(group, size)
        writer.publish()
    total = sum(volume.samples.size for volume in volumes)
    made = Compressed(
        sources=tuple(str(path) for _, path in group.files),
        archive=str(target),
        original_bytes=sum(record.get("original", record)["bytes"] for record in table),
        archive_bytes=size,
        samples=total,
        guarantee=group.guarantee,
        preset=settings.preset,
        portable=settings.coder.requirements().portable,
        verified=settings.verify,
        removed=False,
        chunks=counts,
        model_share=by_model / total if total else 0.0,
        content_saving=saving,
        seconds=time.monotonic() - began,
        contradicting=settings.instances.contradicting(files, table),
    )
    return made, table


def is_portable(preset: str) -> bool:
    """Whether every machine decodes what a preset makes. Raises UsageError, ModelMissingError."""
    return _Settings(preset).coder.requirements().portable


def compress_group(
    group: sources.Group, target: Path, *, preset: str, archived: dict[str, Any], progress: Progress | None = None
) -> tuple[Compressed, list[dict[str, Any]]]:
    """One archive of files that the caller has grouped, proved and published, and its file table.

    `archived` becomes the key of that name in HEAD. Raises what `compress` raises.
    """
    return _compress_group(group, target, _Settings(preset, archived=archived, progress=progress))


def _head(settings: _Settings, group: sources.Group, volumes: list[Volume]) -> dict[str, Any]:
    requirements = settings.coder.requirements()
    head: dict[str, Any] = {
        "medzip": medzip.__version__,
        "preset": settings.preset,
        "guarantee": group.guarantee,
        "portable": requirements.portable,
        "licence_class": requirements.licence_class,
        "volumes": [_volume_record(volume) for volume in volumes],
    }
    weights = [bytes.fromhex(digest) for digest in settings.coder.weights]
    if weights:
        head["weights"] = weights[0] if len(weights) == 1 else weights
    if requirements.platform:
        head["platform"] = requirements.platform
    if settings.archived:
        head["archived"] = settings.archived
    return head


def _volume_record(volume: Volume) -> dict[str, Any]:
    record: dict[str, Any] = {"shape": list(volume.samples.shape), "dtype": volume.samples.dtype.newbyteorder("<").str}
    if volume.affine is not None:
        record["affine"] = [float(number) for number in volume.affine.ravel()]
    return record


def _coded(
    name: str, volumes: list[Volume], blobs: list[bytes], settings: _Settings, progress: Progress
) -> Iterator[tuple[dict[str, Any], CodedChunk, int]]:
    """All chunks in the order of the archive, with their full headers and how many samples they hold."""
    jobs: list[tuple[dict[str, Any], Any]] = [
        ({"blob": number, "bytes": len(blob)}, np.frombuffer(blob, np.uint8).reshape(1, 1, -1))
        for number, blob in enumerate(blobs)
    ]
    for index, volume in enumerate(volumes):
        planes = stacks.planes(volume.samples)
        for first, count in settings.coder.runs(planes, name):
            jobs.append(({"volume": index, "first": first, "count": count}, planes[first : first + count]))
    done, total = 0, sum(planes.size for _, planes in jobs)
    progress("compress", 0, total)

    def code(job: tuple[dict[str, Any], Any]) -> CodedChunk:
        place, planes = job
        return settings.coder.encode_bytes(planes) if "blob" in place else settings.coder.encode(planes)

    for (place, planes), coded in zip(jobs, in_order(code, jobs, settings.jobs), strict=True):
        yield {**place, **coded.header}, coded, planes.size
        done += planes.size
        progress("compress", done, total)


def _content_saving(group: sources.Group, size: int) -> int | None:
    """What guarantee 'content' would save on a gzip file kept whole: as much as the default preset saves in its middle."""
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
    prove.remove_sources(Path(made.archive), root, group)
    return replace(made, removed=True)


def _silent(*_: object) -> None:
    """Progress that nobody asked for."""


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
    path = Path(archive)
    target = restore.default_folder(path) if folder is None else Path(folder)
    return restore.restore(path, restore.Options(target, jobs, overwrite, salvage), progress or _silent)


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
    return prove.verify(Path(archive), None if against is None else Path(against), fast, jobs, progress or _silent)


def open(archive: Path | str) -> Scan:
    """An archive to read from without unpacking it: an array of its volume that decodes only the chunks touched.

    A `str` may be a URL that fsspec knows ('s3://...', 'https://...'): it is read by ranges. Of an archive with several volumes,
    `volumes` are such arrays.

    Raises ArchiveDamagedError, StorageError, LibraryMissingError (a URL without fsspec).
    """
    return Scan(archive if isinstance(archive, str) and "://" in archive else Path(archive))


def info(archive: Path | str) -> dict[str, Any]:
    """What an archive says of itself, as JSON-able data; nothing is decoded."""
    return describe.describe(Path(archive))
