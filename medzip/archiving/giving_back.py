"""`medzip restore`: a study, a series, paths or all of a store back into a folder; the same call again goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medzip import restore, tree
from medzip.archiving import audit
from medzip.archiving.jobs import sha256_of
from medzip.archiving.ledger import KeptFile, Ledger, Row
from medzip.archiving.store import Store
from medzip.errors import MedzipError, StorageError, StorageFullError, UsageError

Progress = Callable[[str, int, int], None]
KEPT = "state IN ('committed', 'removed')"


@dataclass(frozen=True)
class Wanted:
    """What is to come back; all that is None is no condition. `path` is a pattern as in a shell, whose * matches / too."""

    study: str | None = None
    series: str | None = None
    path: str | None = None


@dataclass
class Returned:
    """What came back: `files` were written, `there` lay there already as they should, `older` versions of files were not
    written over newer ones. `failed` are errors by archive. `audited` is False where the audit trail could not be written."""

    archives: int = 0
    files: int = 0
    bytes: int = 0
    there: int = 0
    older: int = 0
    folders: int = 0
    links: int = 0
    audited: bool = True
    seconds: float = 0.0


def give_back(
    store: Store,
    folder: Path,
    wanted: Wanted,
    *,
    jobs: int,
    overwrite: bool,
    progress: Progress,
    failed: Callable[[Row, MedzipError], None],
) -> Returned:
    """Restores what is wanted; what an archive cannot give is told to `failed`, and all others go on.

    Raises UsageError where nothing is wanted that is there, StorageError, ArchiveDamagedError (the ledger).
    """
    began, returned = time.monotonic(), Returned()
    use_weights_of(store)
    with Ledger(store.ledger) as ledger:
        plan = _plan(ledger, wanted, returned)
        entries = _entries(ledger, wanted)
        if not plan and not entries:
            raise UsageError(f"{store.root}: expected something to restore, found nothing that fits; check UID or pattern")
        total = sum(file.bytes for _, files in plan for file in files)
        done = 0
        for row, files in plan:
            try:
                _restore(store, row, files, restore.Options(folder, jobs, overwrite, False), returned)
            except StorageFullError:  # all others would be decoded for nothing
                raise
            except MedzipError as error:
                failed(row, error)
            done += sum(file.bytes for file in files)
            progress("restore", done, total)
    _restore_entries(entries, folder, overwrite, returned)
    _tell(store, wanted, returned)
    returned.seconds = time.monotonic() - began
    return returned


def use_weights_of(store: Store) -> None:
    """Weights that lie beside the archives are found by this process, too."""
    known = os.environ.get("MEDZIP_WEIGHTS", "")
    os.environ["MEDZIP_WEIGHTS"] = os.pathsep.join(part for part in (known, str(store.weights)) if part)


def _plan(ledger: Ledger, wanted: Wanted, returned: Returned) -> list[tuple[Row, list[KeptFile]]]:
    """The archives that are needed and what is wanted of each: of every path the newest version that fits."""
    conditions, values = ["archives." + KEPT], list[str]()
    for column, value in (("study", wanted.study), ("key", wanted.series)):
        if value is not None:
            conditions.append(f"archives.kind = 'series' AND archives.{column} = ?")
            values.append(value)
    if wanted.path is not None:
        conditions.append("(path GLOB ? OR path GLOB ?)")
        values += [wanted.path, wanted.path.rstrip("/") + "/*"]
    found = ledger.execute(
        "SELECT path, bytes, files.sha256, archive, row_number() OVER (PARTITION BY path ORDER BY generation DESC, archive DESC)"
        f" FROM files JOIN archives ON archives.id = archive WHERE {' AND '.join(conditions)} ORDER BY archive, path",
        *values,
    )
    files: dict[int, list[KeptFile]] = {}
    for path, size, sha256, archive, age in found:
        if age == 1:
            files.setdefault(archive, []).append(KeptFile(path, size, sha256))
        else:
            returned.older += 1
    return [(ledger.rows("id = ?", archive)[0], wanted_files) for archive, wanted_files in files.items()]


def _entries(ledger: Ledger, wanted: Wanted) -> dict[str, str | None]:
    """Empty folders (None) and links (targets) that are wanted: those of a study or a series are not known."""
    if wanted.study is not None or wanted.series is not None:
        return {}
    pattern = "*" if wanted.path is None else wanted.path
    below = pattern.rstrip("/") + "/*"
    found = ledger.execute(
        f"SELECT path, target FROM entries JOIN archives ON archives.id = archive WHERE {KEPT} AND (path GLOB ? OR path GLOB ?)"
        " ORDER BY part",
        *(pattern, below),
    )
    return dict(found.fetchall())


def _restore(store: Store, row: Row, files: list[KeptFile], options: restore.Options, returned: Returned) -> None:
    there = set() if options.overwrite else {file.path for file in files if _lies_there(options.folder, file)}
    missing = [file for file in files if file.path not in there]
    if missing:
        only = frozenset(file.path for file in missing)
        wanted = restore.Options(options.folder, options.jobs, options.overwrite, False, only)
        with store.fetched(row.name) as archive:
            result = restore.restore(archive, wanted, _silent)
        if len(result.files) != len(missing):
            raise StorageError(f"{row.name}: expected {len(missing)} files that the ledger names, found {len(result.files)}")
        returned.archives += 1
        returned.files += len(missing)
        returned.bytes += result.bytes
    returned.there += len(there)


def _lies_there(folder: Path, file: KeptFile) -> bool:
    path = folder.joinpath(*file.path.split("/"))
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.bytes:
        return False
    return sha256_of(path) == file.sha256


def _restore_entries(entries: dict[str, str | None], folder: Path, overwrite: bool, returned: Returned) -> None:
    """Empty folders, and links that nothing lies in the place of."""
    folders = [path for path, target in entries.items() if target is None]
    links = {path: target for path, target in entries.items() if target is not None}
    for path, target in list(links.items()):
        link = folder.joinpath(*path.split("/"))
        if link.is_symlink() and str(link.readlink()) == target:
            del links[path]
        elif os.path.lexists(link) and not (overwrite and link.is_symlink()):
            del links[path]
            returned.older += 1
    described = tree.Tree((), tuple(folders), links)
    restore.restore_tree(described, restore.Options(folder, 1, overwrite, False))
    returned.folders, returned.links = len(folders), len(links)


def _tell(store: Store, wanted: Wanted, returned: Returned) -> None:
    """Into the audit trail; where that cannot be written (a disaster copy that is read-only), restoring is worth more."""
    uids = {"study": wanted.study, "series": wanted.series}
    digests = {name: store.digest(name, uid) for name, uid in uids.items() if uid is not None and store.key}
    try:
        audit.append(store.audit, audit.event("restored", files=returned.files, archives=returned.archives, **digests))
    except StorageError:
        returned.audited = False


def _silent(*_: object) -> None:
    """Progress that nobody asked for: an archive is a step."""
