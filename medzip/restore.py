"""From archives back to files: everything is decoded and proved before anything appears under its name."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from medzip import tree
from medzip.archive import Archive
from medzip.container.storage import AtomicFile
from medzip.errors import (
    ArchiveDamagedError,
    ModelMismatchError,
    ModelMissingError,
    StorageError,
    UsageError,
    VerificationError,
)
from medzip.outputs import SUFFIX
from medzip.sources.image import without_gz
from medzip.volume import Deflated, EncodedFrame, FileSkeleton, Literal, Segment, Volume, join

Progress = Callable[[str, int, int], None]
SALVAGED = ".salvaged"
NO_FRAGMENT = bytes.fromhex("feff00e000000000")  # an item of length zero


@dataclass(frozen=True)
class Restored:
    """Files that came back. `lost` says, with salvage, what did not; `repaired` names the archives' sections that were
    damaged and that parity brought back."""

    archive: str
    files: tuple[str, ...]
    bytes: int
    lost: tuple[str, ...]
    seconds: float
    repaired: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """How files are restored; `only` names those of an archive that are wanted, None: all."""

    folder: Path
    jobs: int
    overwrite: bool
    salvage: bool
    only: frozenset[str] | None = None


class _Waiting:
    """Temporary files, proved, that get their names when all are there; and what was noticed on the way."""

    def __init__(self, temporaries: ExitStack) -> None:
        self.temporaries = temporaries
        self.files: dict[Path, AtomicFile] = {}
        self.lost: list[str] = []
        self.repaired: list[str] = []


def restore(archive: Path, options: Options, progress: Progress) -> Restored:
    """What `medzip.decompress` does."""
    began, size = time.monotonic(), 0
    with ExitStack() as temporaries:
        waiting = _Waiting(temporaries)
        manifest = _manifest(archive, options, waiting) if archive.is_dir() else None
        archives = _archives_of_tree(archive, manifest, options, waiting) if manifest else archives_of(archive, manifests=False)
        for number, (path, expected) in enumerate(archives):
            try:
                _restore_one(path, expected, options, waiting)
            except (ArchiveDamagedError, ModelMissingError, ModelMismatchError) as error:
                if not (options.salvage and archive.is_dir()):
                    raise
                waiting.lost.append(str(error))
            progress("decompress", number + 1, len(archives))
        if manifest:
            restore_tree(manifest, options)
        for file in waiting.files.values():
            size += file.temporary.stat().st_size
            file.publish()
    files, lost, repaired = map(str, waiting.files), waiting.lost, waiting.repaired
    return Restored(str(archive), tuple(files), size, tuple(lost), time.monotonic() - began, tuple(repaired))


def default_folder(archive: Path) -> Path:
    """Beside the archive; for a folder of archives, the folder without .mdz beside it."""
    if not archive.is_dir():
        return archive.parent
    if archive.suffix != SUFFIX:
        raise UsageError(f"{archive}: expected to be told where its files shall go, found nothing; name a folder with -o")
    return archive.absolute().with_suffix("")


def archives_of(path: Path, *, manifests: bool = True) -> list[tuple[Path, dict[str, str] | None]]:
    """The archive itself, or all archives in a folder, each with the SHA-256 (hex) of its files where a manifest names them.

    Raises StorageError where there are none, ArchiveDamagedError where one that a manifest names is missing.
    """
    if not path.exists():
        raise StorageError(f"{path}: no such file or folder; check the path")
    if not path.is_dir():
        return [(path, None)]
    found: dict[Path, dict[str, str] | None] = {entry: None for entry in path.rglob("*" + SUFFIX) if entry.is_file()}
    trees = list(path.rglob(tree.MANIFEST)) if manifests else []
    if not found and not trees:
        raise StorageError(f"{path}: expected archives ({SUFFIX}) in this folder, found none; check the path")
    for folder in (manifest.parent for manifest in trees):
        described = tree.read(folder)
        for name, digests in (described.archives() if described else {}).items():
            archive = folder.joinpath(*name.split("/"))
            if archive not in found:
                raise _missing(archive)
            found[archive] = digests
    return sorted(found.items())


def compare_with_manifest(archive: Archive, expected: dict[str, str] | None) -> None:
    """Raises ArchiveDamagedError where the archive is another than the one that the manifest names."""
    if expected is not None and expected != {name: digest.hex() for name, digest in archive.digests.items()}:
        raise archive.damaged("the files that the manifest of its folder names")


def _manifest(folder: Path, options: Options, waiting: _Waiting) -> tree.Tree | None:
    """The manifest of a folder of archives: without it nobody could tell that a file is missing."""
    try:
        manifest = tree.read(folder)
        if manifest is None:
            raise ArchiveDamagedError(
                f"{folder}: expected the manifest {tree.MANIFEST} of a compressed folder, found none; restore it from a copy, "
                "or name the archives one by one"
            )
    except ArchiveDamagedError as error:
        if not options.salvage:
            raise
        waiting.lost.append(str(error))
        return None
    return manifest


def _archives_of_tree(
    folder: Path, manifest: tree.Tree, options: Options, waiting: _Waiting
) -> list[tuple[Path, dict[str, str] | None]]:
    """The archives that a manifest names, as `archives_of` gives them; with salvage those that are there."""
    archives: list[tuple[Path, dict[str, str] | None]] = []
    for name, digests in sorted(manifest.archives().items()):
        archive = folder.joinpath(*name.split("/"))
        if archive.is_file():
            archives.append((archive, None if options.salvage else digests))
        elif options.salvage:
            waiting.lost.append(str(_missing(archive)))
        else:
            raise _missing(archive)
    return archives


def _missing(archive: Path) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{archive}: the manifest names this archive, found none; restore it from a copy")


def _restore_one(path: Path, expected: dict[str, str] | None, options: Options, waiting: _Waiting) -> None:
    """Brings the files of an archive under temporary names, proved; with salvage, what is intact of them."""
    with Archive(path, salvage=options.salvage) as archive:
        compare_with_manifest(archive, expected)
        wanted = [name for name in archive.digests if options.only is None or name in options.only]
        targets = {name: target_in(options.folder, name) for name in wanted}
        for target in targets.values():
            if os.path.lexists(target) and not options.overwrite:
                raise UsageError(f"{target}: exists; choose another folder, or replace it with --overwrite")
        waiting.lost += [f"{path}: {what}" for what in archive.lost]
        parts = _salvaged(archive, waiting.lost) if options.salvage else _intact(archive, options.jobs)
        names = set()
        for file, volumes, name in parts:
            if options.only is not None and file.name not in options.only:
                continue
            names.add(file.name)
            whole = name == file.name
            target = targets.get(name) or target_in(options.folder, name)
            if target in waiting.files:
                raise UsageError(f"{target}: two archives hold a file of this name; restore them one by one")
            digest = archive.digests.get(file.name) if whole else None
            pieces = join(file, volumes)
            pieces = archive.bounded(file.name, pieces) if whole else pieces  # what is salvaged may be unpacked
            waiting.files[target] = _written(pieces, target, digest, options.overwrite, waiting.temporaries)
        if not options.salvage and names != set(targets):
            raise archive.damaged("the files of the file table in SKEL")
        waiting.lost += [f"{path}: {name}" for name in targets if name not in names]
        waiting.repaired += archive.repaired


def _intact(archive: Archive, jobs: int) -> Iterator[tuple[FileSkeleton, list[Volume], str]]:
    volumes = archive.decode(jobs)
    for file in archive.skeleton().files:
        yield file, volumes, file.name


def _salvaged(archive: Archive, lost: list[str]) -> Iterator[tuple[FileSkeleton, list[Volume], str]]:
    """Each file that still has a skeleton, with zeros for lost slices, and its name, another if it is not whole; notes what is
    lost."""
    volumes, missing = [], []
    for index in range(len(archive.volumes)):
        volume, ranges = archive.intact_slices(index)
        volumes.append(volume)
        missing.append(ranges)
    for file in archive.skeleton().files:
        gone = [
            f"slices {max(run.start, part.first)} to {min(run.stop, part.first + part.count) - 1} of volume {part.volume}"
            for part in file.voxels
            for run in missing[part.volume]
            if run.start < part.first + part.count and part.first < run.stop
        ]
        lost += [f"{archive.name}: {file.name}: {what}" for what in gone]
        alone = sum(part.count for part in file.voxels) == 1
        if not (gone and alone):  # a file of one lost slice has nothing left to show
            unpacked = without_gz(file.name) if [type(segment) for segment in file.segments] == [Deflated] else file.name
            yield _salvageable(file, missing), volumes, unpacked + SALVAGED if gone else file.name


def _salvageable(file: FileSkeleton, missing: list[list[range]]) -> FileSkeleton:
    """The file with an empty fragment for each encoded frame whose slice is lost, as its recipe fits no other, and with deflate
    streams of lost slices unpacked, as streams of other bytes cannot be rebuilt."""

    def intact(segment: Segment) -> bool:
        runs = FileSkeleton("", (segment,)).voxels
        return not any(
            lost.start < run.first + run.count and run.first < lost.stop for run in runs for lost in missing[run.volume]
        )

    def kept(segment: Segment) -> tuple[Segment, ...]:
        match segment:
            case EncodedFrame() if not intact(segment):
                return (Literal(NO_FRAGMENT),)
            case Deflated(segments) if not intact(segment):
                return tuple(part for inner in segments for part in kept(inner))
        return (segment,)

    return replace(file, segments=tuple(part for segment in file.segments for part in kept(segment)))


def _written(pieces: Iterator[bytes], target: Path, digest: bytes | None, overwrite: bool, temporaries: ExitStack) -> AtomicFile:
    """The file under a temporary name, compared with its SHA-256 where it is to be whole."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{target.parent}: {error.strerror}; check the path and its permissions") from error
    written = temporaries.enter_context(AtomicFile(target, overwrite=overwrite))
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
        written.write(piece)
    if digest is not None and found.digest() != digest:
        raise VerificationError(f"{target}: expected the SHA-256 of the original, found another; nothing was written")
    written.seal()
    return written


def target_in(folder: Path, name: str) -> Path:
    """Where a file goes: inside the folder, whatever links lie there. Its name was proved to lead nowhere else."""
    parts = name.split("/")
    if os.name == "nt" and any("\\" in part or ":" in part for part in parts):
        raise UsageError(f"{name}: expected a name that Windows can hold, found another; restore it on another system")
    target = folder.joinpath(*parts)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{target}: expected a place inside {folder}, found a link that leads out; choose another folder")
    return target


def restore_tree(manifest: tree.Tree, options: Options) -> None:
    """Empty folders and symbolic links; links only as they were, never followed."""
    folder = options.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in manifest.folders:
            target_in(folder, name).mkdir(parents=True, exist_ok=True)
        for name, destination in manifest.links.items():
            link = target_in(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if link.is_symlink() and options.overwrite:
                link.unlink()
            link.symlink_to(destination)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}; check the path and its permissions") from error
