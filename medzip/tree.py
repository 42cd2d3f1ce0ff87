"""A folder of archives that stands for a folder of files: its manifest tells the whole tree.

The manifest is JSON, so that it can be read without medzip. It names every file with its SHA-256, size and archive, every
empty folder, and every symbolic link.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medzip.container.storage import AtomicFile
from medzip.errors import ArchiveDamagedError, StorageError

MANIFEST = "medzip-tree.json"
FORMAT = 1
USUAL = ("guarantee", "file")
"""What need not be said."""


@dataclass(frozen=True)
class TreeFile:
    """A file of the tree: POSIX path below its root, size, SHA-256 in hex, POSIX path of its archive below the manifest.

    These are of the file that is restored. `guarantee` is 'file' where that is the source file byte for byte.
    """

    path: str
    bytes: int
    sha256: str
    archive: str
    guarantee: str = "file"

    @classmethod
    def of(cls, record: dict[str, Any], archive: str, guarantee: str) -> TreeFile:
        """From an entry of the file table of an archive with this guarantee."""
        given_up = guarantee != "voxels" or "original" in record
        return cls(record["name"], record["bytes"], record["sha256"].hex(), archive, guarantee if given_up else "file")


@dataclass(frozen=True)
class Tree:
    """`folders` are those that no file lies in; `links` map a symbolic link's path to its target."""

    files: tuple[TreeFile, ...]
    folders: tuple[str, ...]
    links: dict[str, str]

    def archives(self) -> dict[str, dict[str, str]]:
        """SHA-256 (hex) of each file by path, of each archive by its path."""
        found: dict[str, dict[str, str]] = {}
        for file in self.files:
            found.setdefault(file.archive, {})[file.path] = file.sha256
        return found


def describe(root: Path, files: Iterable[TreeFile]) -> Tree:
    """The tree at `root`, whose files are already known."""
    folders, links = [], {}
    for folder, subfolders, names in os.walk(root):
        for name in (*subfolders, *names):
            path = Path(folder, name)
            if path.is_symlink():
                links[path.relative_to(root).as_posix()] = os.fspath(path.readlink())
        if not subfolders and not names and Path(folder) != root:
            folders.append(Path(folder).relative_to(root).as_posix())
    return Tree(tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(folders)), dict(sorted(links.items())))


def write(tree: Tree, folder: Path, *, overwrite: bool) -> None:
    """Writes the manifest into the folder of the archives, a line for each file, as short as JSON can be."""
    records = [{key: value for key, value in asdict(file).items() if (key, value) != USUAL} for file in tree.files]
    lines = ",\n".join(json.dumps(record, separators=(",", ":"), sort_keys=True) for record in records)
    rest = json.dumps({"folders": tree.folders, "links": tree.links, "medzip_tree": FORMAT}, separators=(",", ":"))
    text = f'{{"files":[\n{lines}\n],\n{rest[1:]}\n'
    with AtomicFile(folder / MANIFEST, overwrite=overwrite) as file:
        file.write(text.encode())
        file.seal()
        file.publish()


def _file(entry: dict[str, Any]) -> TreeFile:
    guarantee = str(entry.get("guarantee", "file"))
    return TreeFile(str(entry["path"]), int(entry["bytes"]), str(entry["sha256"]), str(entry["archive"]), guarantee)


def read(folder: Path) -> Tree | None:
    """The manifest in a folder of archives, None where there is none.

    Raises ArchiveDamagedError where it is not what `write` writes, or names what lies outside the folder.
    """
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_bytes())
        if record["medzip_tree"] != FORMAT:
            raise ValueError(f"format {record['medzip_tree']}")
        files = tuple(_file(entry) for entry in record["files"])
        links = {str(path): str(target) for path, target in record["links"].items()}
        tree = Tree(files, tuple(map(str, record["folders"])), links)
        names = [*(file.path for file in files), *(file.archive for file in files), *tree.folders, *links]
        if any(part in ("", ".", "..") for name in names for part in name.split("/")):
            raise ValueError("a name that leads out of the folder")
        if any(b"\0" in os.fsencode(name) for name in (*names, *links.values())):  # raises ValueError for what is no text
            raise ValueError("a name that no file system holds")
        return tree
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; check the path and its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveDamagedError(
            f"{path}: expected a manifest of medzip, found something else; restore it from a copy"
        ) from error
