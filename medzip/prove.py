"""Proof that archives give their files back, and the removal of sources, which rests on it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medzip import restore, sources
from medzip.archive import Archive
from medzip.errors import ArchiveDamagedError, ModelMismatchError, StorageError, UsageError, VerificationError
from medzip.volume import join

Progress = Callable[[str, int, int], None]
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Verified:
    """An archive (or a folder of them) that was found good; `fast` means by checksums alone, nothing decoded. `repaired`
    names the archives' sections that were damaged and that parity brought back."""

    archive: str
    files: int
    bytes: int
    fast: bool
    repaired: tuple[str, ...]
    seconds: float


def verify(archive: Path, against: Path | None, fast: bool, jobs: int, progress: Progress) -> Verified:
    """What `medzip.verify` does."""
    began, files, size = time.monotonic(), 0, 0
    repaired: list[str] = []
    for path, expected in restore.archives_of(archive):
        with Archive(path) as opened:
            restore.compare_with_manifest(opened, expected)
            opened.reader.check()
            if against is not None:
                _compare_sources(opened, against)
            if not fast:
                _decode_all(opened, opened.digests, jobs, progress)
            files += len(opened.files)
            size += sum(record["bytes"] for record in opened.files)
            repaired += opened.repaired
    return Verified(str(archive), files, size, fast, tuple(repaired), time.monotonic() - began)


def prove_written(temporary: Path, table: list[dict[str, Any]], jobs: int, progress: Progress) -> None:
    """Decode an archive that was just written, from the disk, and compare it with the file table of its sources.

    Raises VerificationError for whatever is wrong with it: there is no better copy of this archive to look for.
    """
    try:
        with Archive(temporary) as archive:
            _decode_all(archive, {record["name"]: record["sha256"] for record in table}, jobs, progress)
    except (ArchiveDamagedError, ModelMismatchError) as error:
        raise VerificationError(
            f"the archive just written does not decode, nothing of it was kept; keep the original and report this: {error}"
        ) from error


def file_table(group: sources.Group) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file as it is to be restored, read from the disk once more, past every `split`.

    `original` tells the same of the file itself, and its transfer syntax, where it is to be restored without its compression.
    """
    table = []
    for (_, path), (name, pieces) in zip(group.files, sources.contents(group), strict=True):
        digest, size = hashlib.sha256(), 0
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
        record: dict[str, Any] = {"name": name, "bytes": size, "sha256": digest.digest()}
        was = sources.original(name, path) if group.guarantee == "voxels" else record
        table.append(record if was["sha256"] == record["sha256"] else {**record, "original": was})
    return table


def remove_sources(archive: Path, root: Path, group: sources.Group) -> None:
    """Remove an archive's sources after a fresh process has decoded it and found them unchanged.

    `root` is the folder that the files' names are relative to. Raises VerificationError, StorageError; nothing that is
    not proved is removed.
    """
    before = [_identity(path) for _, path in group.files]
    against = group.files[0][1] if len(group.files) == 1 else root
    # -P: what lies in the folder where medzip is called, perhaps a stranger's files, must not be imported.
    call = [sys.executable, "-P", "-m", "medzip", "verify", str(archive.absolute())]
    call += ["--against", str(against.absolute()), "--quiet"]
    places = [str(Path(__file__).absolute().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    result = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise VerificationError(f"{archive}: a fresh process could not prove it, nothing was removed: {result.stderr.strip()}")
    for (name, path), identity in zip(group.files, before, strict=True):
        if _identity(path) != identity:
            raise VerificationError(f"{name}: expected an unchanged source, found it changed while it was archived; it is kept")
        try:
            path.unlink()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}; the archive is good, remove the source yourself") from error


def _decode_all(archive: Archive, digests: dict[str, bytes], jobs: int, progress: Progress) -> None:
    """Decode an archive and compare every file with its SHA-256. Raises VerificationError where one differs."""
    volumes = archive.decode(jobs)
    files = archive.skeleton().files
    if {file.name for file in files} != set(digests):
        raise VerificationError(
            f"{archive.name}: expected the {len(digests)} files of the original, found others; keep the original and report this"
        )
    for number, file in enumerate(files):
        digest = hashlib.sha256()
        for piece in archive.bounded(file.name, join(file, volumes)):
            digest.update(piece)
        if digest.digest() != digests[file.name]:
            raise VerificationError(f"{file.name}: expected the bytes of the original, found others; keep the original")
        progress("verify", number + 1, len(files))


def _compare_sources(archive: Archive, against: Path) -> None:
    """Compare the sources on the disk with the file table."""
    if not against.exists():
        raise StorageError(f"{against}: no such file or folder to compare with; check the path")
    if against.is_file() and len(archive.files) != 1:
        raise UsageError(f"{against}: expected a folder to compare {len(archive.files)} files with, found a file")
    guarantee = str(archive.head.get("guarantee"))
    for record in archive.files:
        source = against if against.is_file() else _source_in(against, record["name"], guarantee)
        if not source.is_file():
            raise VerificationError(f"{archive.name}: expected {source} to compare with, found no such file")
        group = sources.Group("", sources.STORED, ((record["name"], source),))
        [(_, pieces)] = sources.contents(group)
        if guarantee == "content" and next(pieces, b"").startswith(GZIP_MAGIC):
            group = replace(group, guarantee="content")
        elif "original" in record:
            group = replace(group, guarantee="voxels")
        [found] = file_table(group)
        if found["sha256"] != record["sha256"]:
            raise VerificationError(f"{source}: expected the bytes that the archive holds, found others; keep both")


def _source_in(folder: Path, name: str, guarantee: str) -> Path:
    """Where a file's source lies; under guarantee 'content' it had another ending, unless it was no .gz by name."""
    source = folder.joinpath(*name.split("/"))
    packed = [source.with_name(source.name + ending) for ending in (".gz", ".GZ")] if guarantee == "content" else []
    return next((path for path in packed if path.is_file()), source)


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; the archive is good, the source could not be looked at") from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
