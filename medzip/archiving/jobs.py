"""What worker processes do: functions of their arguments alone, which may run twice, elsewhere or not to their end.

An archive appears under its name complete, proved and durable, and only where nothing has that name. Who finds its archive
there already proves that one instead: a job done twice is harmless.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import medzip
from medzip import describe, pipeline, skeleton, sources
from medzip.archive import Archive
from medzip.archiving.ledger import Identity, KeptFile
from medzip.archiving.remote import Remote
from medzip.archiving.store import Store
from medzip.container import sidecar
from medzip.container.storage import sync_folder
from medzip.container.writer import ArchiveWriter
from medzip.errors import ArchiveDamagedError, MedzipError, StorageError, UnsupportedInputError, UsageError, VerificationError
from medzip.volume import Skeleton

SQL_INTEGERS = 1 << 63
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """One archive that is due. `files` maps POSIX paths below `root` to what tells that they have not changed since they were
    found; `source` and `wrapped` are those of `medzip.sources.Group`; `about` is the key `archived` of HEAD (FORMAT.md, 22). With
    a `remote` URL the archive is sent there from its target."""

    root: Path
    files: tuple[tuple[str, Identity], ...]
    target: Path
    source: str
    wrapped: bool
    preset: str
    about: dict[str, Any]
    remote: str | None = None


@dataclass(frozen=True)
class Result:
    """One archive that lies under its name, proved. `unchanged` names the files whose sources are what it holds."""

    files: tuple[KeptFile, ...]
    unchanged: frozenset[str]
    original_bytes: int
    archive_bytes: int
    sha256: str
    weights: tuple[str, ...]
    preset: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Protection:
    """A committed archive, by its SHA-256 in hex, that is to get parity beside it."""

    archive: Path
    sha256: str


@dataclass(frozen=True)
class Removal:
    """Sources to be removed, of an archive that is committed."""

    root: Path
    store: Store
    name: str
    sha256: str
    files: tuple[KeptFile, ...]


@dataclass(frozen=True)
class Removed:
    """`kept` counts the sources that are not what the archive holds, and stay."""

    removed: int
    kept: int


def compress_series(job: Job, progress: Progress) -> Result:
    """Makes, proves and publishes the archive of a job; where it lies there already, proves it.

    Raises MedzipError: StorageError for a file that cannot be read, VerificationError for one that changes meanwhile.
    """
    there = _exists(job.target)
    if there:
        pipeline.verify(job.target, progress=progress)
    elif _brought_back(job, progress):
        there = True
    else:
        _make_folder(job.target.parent)
        try:
            _compress(job, progress)
        except UsageError:  # another worker, whose coordinator was killed, published it meanwhile
            if not _exists(job.target):
                raise
            there = True
            pipeline.verify(job.target, progress=progress)
    result = read_archive(job.target)
    same = ("kind", "key", "study", "part")
    if [result.about.get(name) for name in same] != [job.about.get(name) for name in same]:
        raise VerificationError(f"{job.target}: expected the archive of this series, found another; move it away")
    if job.remote:
        Remote(job.remote).publish(job.target, _name(job), result.sha256)
    return replace(result, unchanged=_unchanged(job, result.files, compare=there))


def _name(job: Job) -> str:
    return f"{job.target.parent.name}/{job.target.name}"


def _brought_back(job: Job, progress: Progress) -> bool:
    """Whether the archive was sent by a run that was killed before it noted that; it is not made again. Raises
    ArchiveDamagedError where what lies there is none, and leaves nothing of it here."""
    if not job.remote or not (remote := Remote(job.remote)).holds(_name(job)):
        return False
    _make_folder(job.target.parent)
    remote.fetch(_name(job), job.target)
    try:
        pipeline.verify(job.target, progress=progress)
    except MedzipError:
        job.target.unlink()
        raise
    return True


def protect(protection: Protection, progress: Progress) -> None:
    """Lays parity beside an archive. Raises StorageError, and ArchiveDamagedError where it is not what was committed."""
    layout = sidecar.make(protection.archive, protection.sha256)
    progress("parity", layout.length, layout.length)


def remove_sources(removal: Removal, progress: Progress) -> Removed:
    """Removes what an archive holds, in a process that never encoded: decodes it from its place, and compares every source.
    What lies behind a symbolic link, in the tree or out of it, stays.

    Raises VerificationError, ArchiveDamagedError, StorageError, having removed nothing that is not proved.
    """
    if not any(os.path.lexists(removal.root.joinpath(*file.path.split("/"))) for file in removal.files):
        return Removed(0, 0)
    with removal.store.fetched(removal.name) as archive:
        if sha256_of(archive) != removal.sha256:
            raise ArchiveDamagedError(f"{removal.name}: expected the SHA-256 of the ledger, found another; nothing was removed")
        pipeline.verify(archive, progress=progress)
    removed, kept, root = 0, 0, removal.root.resolve()
    for file in removal.files:
        path = root.joinpath(*file.path.split("/"))
        try:
            if not os.path.lexists(path):
                continue
            if path.is_symlink() or path.parent.resolve() != path.parent or not _is(path, file):
                kept += 1
                continue
            path.unlink()
            removed += 1
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}; the archive is good, the source could not be removed") from error
    return Removed(removed, kept)


def _is(path: Path, file: KeptFile) -> bool:
    before = Identity.of(path)
    return before.bytes == file.bytes and sha256_of(path) == file.sha256 and Identity.of(path) == before


def write_tree(target: Path, folders: list[str], links: Mapping[str, str], part: int) -> Result:
    """An archive of no files, which tells of empty folders and symbolic links."""
    about = {"kind": "tree", "key": "", "study": "", "part": part, "generation": 1, "folders": folders, "links": dict(links)}
    if not _exists(target):
        _make_folder(target.parent)
        with ArchiveWriter(target) as writer:
            head = {"medzip": medzip.__version__, "preset": "parametric", "guarantee": "file", "portable": True}
            writer.head({**head, "licence_class": "open", "volumes": [], "archived": about})
            writer.files([])
            writer.skeleton(skeleton.pack(Skeleton(()))[0])
            writer.finish()
            writer.publish()
    return read_archive(target)


def read_archive(path: Path) -> Result:
    """What an archive says of itself, and its SHA-256. Raises ArchiveDamagedError where it does not say what
    `medzip archive` writes, and what opening raises."""
    with Archive(path) as archive:
        about = archive.head.get("archived")
        if about is None or not _is_about(about):
            raise archive.damaged("an archive that `medzip archive` wrote")
        files = tuple(KeptFile(file["name"], file["bytes"], file["sha256"].hex()) for file in archive.files)
        preset = str(archive.head.get("preset"))
    if any(file.bytes >= SQL_INTEGERS for file in files):
        raise ArchiveDamagedError(f"{path}: expected files that a disk could hold, found larger ones; restore it from a copy")
    size = path.stat().st_size
    weights = tuple(describe.describe(path)["weights"])
    return Result(files, frozenset(), sum(file.bytes for file in files), size, sha256_of(path), weights, preset, about)


def sha256_of(path: Path) -> str:
    """SHA-256 in hex of a file. Raises StorageError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: expected a readable file: {error.strerror}; check path and permissions") from error


def _compress(job: Job, progress: Progress) -> None:
    files = tuple((name, job.root.joinpath(*name.split("/"))) for name, _ in job.files)
    group = sources.Group(job.target.name, job.source, files, wrapped=job.wrapped)
    for (name, path), (_, identity) in zip(group.files, job.files, strict=True):
        if _identity(path) != identity:
            raise VerificationError(f"{name}: expected the file that was found, found it changed; run the command again")
    try:
        pipeline.compress_group(group, job.target, preset=job.preset, archived=job.about, progress=progress)
    except UnsupportedInputError:
        whole = replace(group, source=sources.STORED, wrapped=False)
        pipeline.compress_group(whole, job.target, preset=job.preset, archived=job.about, progress=progress)


def _unchanged(job: Job, files: tuple[KeptFile, ...], *, compare: bool) -> frozenset[str]:
    """The files whose sources still are what they were when they were found, and what the archive holds.

    Without `compare` they are those that it was made of just now: a file with the same identity was not touched meanwhile.
    """
    found = dict(job.files)
    same = set()
    for file in files:
        path = job.root.joinpath(*file.path.split("/"))
        if file.path in found and _identity(path) == found[file.path] and not (compare and sha256_of(path) != file.sha256):
            same.add(file.path)
    return frozenset(same)


def _identity(path: Path) -> Identity | None:
    try:
        return Identity.of(path)
    except OSError:
        return None


def _exists(target: Path) -> bool:
    """Whether an archive has this name. A name that a killed process only reserved (a file of no bytes) is given back."""
    try:
        if target.stat().st_size == 0:
            target.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror}; check the path and its permissions") from error
    return target.exists()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; expected a folder, or leave to make one") from error


def _is_about(about: Any) -> bool:
    match about:
        case {"kind": str(), "key": str(), "study": str(), "part": int(part), "generation": int(generation)}:
            folders, links = about.get("folders", []), about.get("links", {})
            texts = [*folders, *links, *links.values()] if isinstance(folders, list) and isinstance(links, dict) else [None]
            return 0 < part < SQL_INTEGERS and 0 < generation < SQL_INTEGERS and all(isinstance(text, str) for text in texts)
    return False
