"""Images in two files, a header and its samples: which files belong together.

Partners are looked for in the folder of the header and nowhere else, whatever a header says.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from medzip.errors import StorageError, UnsupportedInputError
from medzip.sources.contract import HEAD_BYTES, broken
from medzip.sources.image import ImageSource, without_gz
from medzip.sources.wrappers import gzip

MAX_HEADER_BYTES = 1 << 24
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Pair:
    """Names of a header and of the file with its samples; `packed` tells that one of them is in gzip, and its header does not
    say so."""

    header: str
    data: str
    source: str
    packed: bool


def among(files: Mapping[str, Path], sources: Iterable[ImageSource]) -> list[Pair]:
    """The pairs among files, given by their POSIX names, in the order of their headers; no file is in two pairs.

    Headers whose partner is not there or does not fit them are in none.
    """
    pairs: list[Pair] = []
    taken: set[str] = set()
    known = tuple(sources)
    for name in files:
        try:
            pair = _pair_of(name, files, known)
        except UnsupportedInputError:
            continue
        if pair and not taken & {pair.header, pair.data}:
            taken |= {pair.header, pair.data}
            pairs.append(pair)
    return pairs


def beside(path: Path, sources: Iterable[ImageSource]) -> Pair | None:
    """The pair that a file belongs to with another one of its folder, whichever of the two it is.

    Raises UnsupportedInputError for a header whose partner is elsewhere or does not fit it.
    """
    known = tuple(sources)
    files = _folder(path.parent, path)
    if _may_be_header(path.name, known):
        return _pair_of(path.name, files, known)
    stem = path.name.split(".")[0].casefold()
    headers = [name for name in files if name != path.name and _may_be_header(name, known)]
    candidates = {name: files[name] for name in sorted(headers, key=lambda name: name.split(".")[0].casefold() != stem)}
    return next((pair for pair in among(candidates | {path.name: path}, known) if pair.data == path.name), None)


def _folder(folder: Path, named: Path) -> dict[str, Path]:
    """The regular files of a folder by name, as far as it lets them be listed, and the one that the user named."""
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except OSError:
        entries = []
    return {entry.name: Path(entry.path) for entry in sorted(entries, key=lambda e: e.name)} | {named.name: named}


def _may_be_header(name: str, sources: tuple[ImageSource, ...]) -> bool:
    return any(_suffix(name) in source.header_suffixes for source in sources)


def _suffix(name: str) -> str:
    return PurePosixPath(without_gz(name)).suffix.lower()


def _pair_of(name: str, files: Mapping[str, Path], sources: tuple[ImageSource, ...]) -> Pair | None:
    """The pair of a header, None for any other file; raises UnsupportedInputError where its partner is not there or too short."""
    known = [source for source in sources if _suffix(name) in source.header_suffixes]
    if not known:
        return None
    with _header(files[name], name) as (header, packed):
        source = next((source for source in known if source.detect(_from_start(header).read(HEAD_BYTES))), None)
        own = PurePosixPath(name).name
        own = without_gz(own) if packed else own
        wanted = source.partners(_from_start(header), own) if source else ()
        if source is None or not wanted:
            return None
        data = next((other for other in _places(name, wanted) if other in files), None)
        if data is None:
            raise broken(name, f"the file with its samples, {wanted[0]}, beside it", "no such file")
        inside = source.stream(_from_start(header), own) is not None
        with _header(files[data], data) as (_, packed_data):
            if packed or (packed_data and not inside):
                return Pair(name, data, source.name, True)
        source.checked(_from_start(header), _size(files[data], data), name)
        return Pair(name, data, source.name, False)


def _from_start(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _places(name: str, wanted: tuple[str, ...]) -> Iterator[str]:
    folder = PurePosixPath(name).parent
    for partner in wanted:
        yield str(folder / partner)
        yield str(folder / f"{partner}.gz")


@contextmanager
def _header(path: Path, name: str) -> Iterator[tuple[BinaryIO, bool]]:
    """A file, or the start of its content if it is in gzip, and whether it is."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            content = gzip.start(_from_start(file).read(MAX_HEADER_BYTES), MAX_HEADER_BYTES) if packed else b""
            yield io.BytesIO(content) if packed else file, packed
    except OSError as error:
        raise _unreadable(name, error) from error


def _size(path: Path, name: str) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(name, error) from error
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _unreadable(name: str, error: OSError) -> StorageError:
    return StorageError(f"{name}: expected a readable file, found: {error.strerror}; check path and permissions")
