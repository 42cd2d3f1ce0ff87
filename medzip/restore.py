"""From archives back to files: everything is decoded and proved before anything appears under its name."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from medzip import tree
from medzip.archive import Archive
from medzip.container.storage import AtomicFile
from medzip.errors import ArchiveDamagedError, MedzipError, StorageError, UsageError, VerificationError
from medzip.volume import FileSkeleton, Volume, Voxels, join

Progress = Callable[[str, int, int], None]
SUFFIX = ".mdz"
SALVAGED = ".salvaged"


@dataclass(frozen=True)
class Restored:
    """Files that came back. `lost` says, with salvage, what did not."""

    archive: str
    files: tuple[str, ...]
    bytes: int
    lost: tuple[str, ...]
    seconds: float


def restore(archive: Path, folder: Path | None, jobs: int, overwrite: bool, salvage: bool, progress: Progress | None) -> Restored:
    """What `medzip.decompress` does."""
    began, report = time.monotonic(), progress or (lambda *_: None)
    target = default_folder(archive) if folder is None else folder
    manifest = tree.read(archive) if (archive / tree.MANIFEST).is_file() else None
    archives = archives_of(archive)
    if manifest and not salvage:
        _require_archives(archive, manifest)
    files: list[str] = []
    lost: list[str] = []
    size = 0
    with ExitStack() as temporaries:
        waiting: list[AtomicFile] = []
        for number, path in enumerate(archives):
            try:
                written, missing = _restore_one(path, target, jobs, overwrite, salvage, temporaries)
            except MedzipError as error:
                if not (salvage and archive.is_dir()):
                    raise
                written, missing = [], [str(error)]
            waiting += written
            lost += missing
            report("decompress", number + 1, len(archives))
        if manifest:
            _restore_tree(manifest, target, overwrite)
        for file in waiting:
            size += file.temporary.stat().st_size
            file.publish()
            files.append(str(file.path))
    return Restored(str(archive), tuple(files), size, tuple(lost), time.monotonic() - began)


def default_folder(archive: Path) -> Path:
    """Beside the archive; for a folder of archives, the folder without .mdz beside it."""
    if not archive.is_dir():
        return archive.parent
    if archive.suffix != SUFFIX:
        raise UsageError(f"{archive}: expected to be told where its files shall go, found nothing; name a folder with -o")
    return archive.absolute().with_suffix("")


def archives_of(path: Path) -> list[Path]:
    """The archive itself, or all archives in a folder. Raises StorageError where there are none."""
    if not path.exists():
        raise StorageError(f"{path}: no such file or folder; check the path")
    if not path.is_dir():
        return [path]
    found = sorted(entry for entry in path.rglob("*" + SUFFIX) if entry.is_file())
    if not found and not (path / tree.MANIFEST).is_file():
        raise StorageError(f"{path}: expected archives ({SUFFIX}) in this folder, found none; check the path")
    return found


def digests_of(archive: Archive) -> dict[str, bytes]:
    """SHA-256 of each file, by name, as the file table has it."""
    try:
        digests = {str(record["name"]): bytes(record["sha256"]) for record in archive.files}
    except (KeyError, TypeError) as error:
        raise archive.damaged("a name and a SHA-256 for each file in FILE") from error
    if len(digests) != len(archive.files):
        raise archive.damaged("file names that differ in FILE")
    return digests


def _restore_one(
    path: Path, folder: Path, jobs: int, overwrite: bool, salvage: bool, temporaries: ExitStack
) -> tuple[list[AtomicFile], list[str]]:
    """Temporary files, proved, of all files of an archive, and what is lost (only with salvage)."""
    with Archive(path, salvage=salvage) as archive:
        digests = {} if salvage and not archive.files else digests_of(archive)
        targets = {name: _target(folder, name, archive) for name in digests}
        for target in () if overwrite else targets.values():
            if target.exists():
                raise UsageError(f"{target}: exists; choose another folder, or replace it with --overwrite")
        lost = [f"{path}: {what}" for what in archive.lost]
        parts = _salvaged(archive, lost) if salvage else _intact(archive, jobs)
        waiting, seen = [], set()
        for file, volumes, whole in parts:
            seen.add(file.name)
            target = targets.get(file.name) or _target(folder, file.name, archive)
            target = target if whole else target.with_name(target.name + SALVAGED)
            waiting.append(_written(file, volumes, target, digests.get(file.name) if whole else None, overwrite, temporaries))
        if not salvage and seen != set(digests):
            raise archive.damaged("the files of the file table in SKEL")
        lost += [f"{path}: {name}" for name in digests if name not in seen]
        return waiting, lost


def _intact(archive: Archive, jobs: int) -> Iterator[tuple[FileSkeleton, list[Volume], bool]]:
    volumes = archive.decode(jobs)
    for file in archive.skeleton().files:
        yield file, volumes, True


def _salvaged(archive: Archive, lost: list[str]) -> Iterator[tuple[FileSkeleton, list[Volume], bool]]:
    """Each file that still has a skeleton, with zeros for lost slices, and whether it is whole; notes what is lost."""
    volumes, missing = [], []
    for index in range(len(archive.volumes)):
        volume, ranges = archive.intact_slices(index)
        volumes.append(volume)
        missing.append(ranges)
    for file in archive.skeleton().files:
        gone = [
            f"slices {max(run.start, part.first)} to {min(run.stop, part.first + part.count) - 1} of volume {part.volume}"
            for part in file.segments
            if isinstance(part, Voxels)
            for run in missing[part.volume]
            if run.start < part.first + part.count and part.first < run.stop
        ]
        lost += [f"{archive.name}: {file.name}: {what}" for what in gone]
        alone = sum(part.count for part in file.segments if isinstance(part, Voxels)) == 1
        if not (gone and alone):  # a file of one lost slice has nothing left to show
            yield file, volumes, not gone


def _written(
    file: FileSkeleton, volumes: list[Volume], target: Path, digest: bytes | None, overwrite: bool, temporaries: ExitStack
) -> AtomicFile:
    """The file under a temporary name, compared with its SHA-256 where it is to be whole."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{target.parent}: {error.strerror}; check the path and its permissions") from error
    written = temporaries.enter_context(AtomicFile(target, overwrite=overwrite))
    found = hashlib.sha256()
    for piece in join(file, volumes):
        found.update(piece)
        written.write(piece)
    if digest is not None and found.digest() != digest:
        raise VerificationError(f"{target}: expected the SHA-256 of the original, found another; nothing was written")
    written.seal()
    return written


def _target(folder: Path, name: str, archive: Archive) -> Path:
    """Where a file goes: inside the folder, whatever its name and whatever links lie there."""
    parts = name.split("/")
    if not all(parts) or any(part in (".", "..") or "\0" in part or "\\" in part or ":" in part for part in parts):
        raise ArchiveDamagedError(f"{archive.name}: expected names of files inside a folder, found another; it may be hostile")
    target = folder.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{target}: expected a place inside {folder}, found a link that leads out; choose another folder")
    return target


def _require_archives(folder: Path, manifest: tree.Tree) -> None:
    for archive in sorted({file.archive for file in manifest.files}):
        if not folder.joinpath(*archive.split("/")).is_file():
            raise ArchiveDamagedError(f"{folder}: expected archive {archive} of the manifest, found none; restore it from a copy")


def _restore_tree(manifest: tree.Tree, folder: Path, overwrite: bool) -> None:
    """Empty folders and symbolic links; links only as they were, never followed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in manifest.folders:
            _inside(folder, name).mkdir(parents=True, exist_ok=True)
        for name, destination in manifest.links.items():
            link = _inside(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink() and overwrite:
                link.unlink()
            link.symlink_to(destination)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; check the path and its permissions") from error


def _inside(folder: Path, name: str) -> Path:
    parts = name.split("/")
    path = folder.joinpath(*parts)
    if not all(parts) or ".." in parts or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ArchiveDamagedError(f"{folder}: expected names inside a folder in the manifest, found another; it may be hostile")
    return path
