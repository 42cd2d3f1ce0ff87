"""From files to skeletons and volumes: which files become one archive, and what of them is voxels.

`groups` looks at headers only; `read` reads each file once; `contents` gives the bytes that a restored file must have,
straight from the disk and past every `split`, for checksums and comparisons. A new format is one module with a
`medzip.sources.contract.Source` and one line in SOURCES.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from medzip.errors import StorageError, UnsupportedInputError, UsageError
from medzip.sources import dicom, pairs
from medzip.sources.afni import AfniSource
from medzip.sources.contract import HEAD_BYTES, Source, broken, whole
from medzip.sources.dicom import DicomSource
from medzip.sources.encapsulated import native
from medzip.sources.image import ImageSource
from medzip.sources.metaimage import MetaImageSource
from medzip.sources.mgh import MghSource
from medzip.sources.minc import MincSource
from medzip.sources.minc2 import Minc2Source
from medzip.sources.nifti import NiftiSource
from medzip.sources.npy import NpySource
from medzip.sources.npz import NpzSource
from medzip.sources.nrrd import NrrdSource
from medzip.sources.par_rec import ParRecSource
from medzip.sources.tiff import TiffSource
from medzip.sources.wrappers import gzip
from medzip.sources.wrappers.streams import opened
from medzip.volume import Skeleton, Volume

SOURCES: dict[str, Source] = {
    "nifti": NiftiSource(),
    "npy": NpySource(),
    "dicom": DicomSource(),  # before TIFF: a preamble may be the start of one
    "metaimage": MetaImageSource(),
    "nrrd": NrrdSource(),
    "mgh": MghSource(),
    "afni": AfniSource(),
    "par_rec": ParRecSource(),
    "minc": MincSource(),
    "minc2": Minc2Source(),
    "tiff": TiffSource(),
    "npz": NpzSource(),
}
IMAGES = tuple(source for source in SOURCES.values() if isinstance(source, ImageSource))
IN_GZIP = tuple(source.name for source in IMAGES)
"""What guarantee 'content' can be given for in gzip: images by themselves."""
STORED = "stored"
SUPPORTED = "DICOM, NIfTI, Analyze, MetaImage, NRRD, MGH, AFNI, PAR/REC, MINC, TIFF or NumPy (.npy, .npz)"
GUARANTEES = ("file", "content")
ENCAPSULATED = ("keep", "voxels")


@dataclass(frozen=True)
class Group:
    """What becomes one archive.

    `name` is the archive's, relative with POSIX separators ('sub/a.nii.gz.mdz'). `source` is a key of SOURCES, or
    'stored' where all files are kept whole. `files` holds (name to be restored, where it lies), sorted by name.
    `guarantee` is 'content' only where the user asked for it and gzip is given up: then the name has lost its '.gz'. It is
    'voxels' only where the user asked for it: then some DICOM files may be restored without their compression.
    `wrapped` tells that what `source` reads lies in gzip (of a pair, one file or both), each file of which is taken apart if it
    can be rebuilt, and else kept whole.
    """

    name: str
    source: str
    files: tuple[tuple[str, Path], ...]
    guarantee: str = "file"
    wrapped: bool = False


def groups(path: Path, guarantee: str = "file", *, store: bool = False, encapsulated: str = "keep") -> list[Group]:
    """What a file or a folder is to be divided into, sorted by archive name. Reads headers, and gzip files if asked to.

    A file is one group; where it is one of a pair (.hdr and .img), both are. With `store`, a file that no source reads is a
    group too, kept whole. In a folder, images are one group each, DICOM files one for each series, orientation and size over
    all subfolders, and everything else, files that break the rules of their format included, is one group that is kept whole.
    Symbolic links in a folder are not followed; they, and what is no regular file, are in no group. With guarantee
    'content', what lies inside .nii.gz, .mgz and their like is coded instead of the gzip file. With `encapsulated` 'voxels',
    JPEG 2000, HTJ2K and JPEG XL are given up in DICOM files.

    Raises UnsupportedInputError for a single file that no source reads or that is broken (unless `store`), StorageError where
    something cannot be read, UsageError for another guarantee or another way with encapsulated pixel data.
    """
    if guarantee not in GUARANTEES:
        raise UsageError(f"expected a guarantee of {', '.join(GUARANTEES)}, found {guarantee!r}")
    if encapsulated not in ENCAPSULATED:
        raise UsageError(f"expected encapsulated pixel data to be one of {', '.join(ENCAPSULATED)}, found {encapsulated!r}")
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(str(path), error) from error
    if stat.S_ISDIR(mode):
        found = _folder_groups(path, guarantee)
    elif stat.S_ISREG(mode):
        found = [_named_group(path, guarantee, store)]
    else:
        raise broken(str(path), "a file or a folder", "a device, socket or pipe")
    return [_without_compression(group) if encapsulated == "voxels" else group for group in found]


def _without_compression(group: Group) -> Group:
    return replace(group, guarantee="voxels") if group.source == "dicom" and not group.wrapped else group


@dataclass(frozen=True)
class Member:
    """What a file of a tree shares an archive with: all files of equal `kind`, `key` and `study`.

    `kind` is 'series' (`key`: the SeriesInstanceUID, `study`: the StudyInstanceUID, where the file has one), 'slices' (DICOM
    that names no series, `key`: its folder), 'image' (`key`: its name, or that of the header of a pair) or 'rest' (kept whole,
    `key`: its folder). `source` and `wrapped` as in Group; a series may have files of both kinds.
    """

    kind: str
    key: str
    source: str
    study: str = ""
    wrapped: bool = False


def member(path: Path, name: str) -> Member:
    """What the header of one file says; files that break the rules of their format are kept whole.

    Raises StorageError where the file cannot be read, UnsupportedInputError where its name is not Unicode.
    """
    folder = str(PurePosixPath(portable(name)).parent)
    try:
        header, wrapped = _dicom_header(path, name)
        group = None if header else _group_in_folder(path, name, "file")
    except UnsupportedInputError:
        header, wrapped, group = None, False, None
    if header and header.texts.get(dicom.SERIES):
        return Member("series", header.texts[dicom.SERIES], "dicom", header.texts.get(dicom.STUDY, ""), wrapped)
    if header:
        return Member("slices", folder, "dicom", wrapped=wrapped)
    if group and group.name == f"{name}.mdz":
        return Member("image", name, group.source, wrapped=group.wrapped)
    return Member("rest", folder, STORED)


def paired(files: Mapping[str, Path]) -> dict[str, Member]:
    """Those of the files, given by their names, that are one of a header and its samples in two files."""
    return {
        name: Member("image", pair.header, pair.source, wrapped=pair.packed)
        for pair in pairs.among(files, IMAGES)
        for name in (pair.header, pair.data)
    }


def _dicom_header(path: Path, name: str) -> tuple[dicom.Header | None, bool]:
    """The header of a DICOM file, with or without pixels, None for any other; and whether the file is in gzip."""
    try:
        with path.open("rb") as file:
            source = _detected(file.read(HEAD_BYTES))
            if source is not None and source.name == "dicom":
                return dicom.header_of(file, file.seek(0, os.SEEK_END), name), False
    except OSError as error:
        raise _unreadable(name, error) from error
    packed = None if source else _inside_gzip(path, name)
    if packed is None or packed.name != "dicom":
        return None, False
    content = _gathered(gzip.pieces(path, name))
    return dicom.header_of(io.BytesIO(content), len(content), name), True


def read(group: Group) -> tuple[Skeleton, list[Volume]]:
    """All files of a group as skeleton and volumes; each is read once.

    Raises StorageError where a file cannot be read, UnsupportedInputError where it changed since `groups` saw it.
    """
    files = ((name, _gathered(pieces)) for name, pieces in contents(group))
    if group.source == STORED:
        return Skeleton(tuple(whole(name, data) for name, data in files)), []
    if group.wrapped:
        return _unwrapped(SOURCES[group.source], dict(files))
    return SOURCES[group.source].split(files)


def contents(group: Group) -> Iterator[tuple[str, Iterator[bytes]]]:
    """(name, bytes in pieces) of each file of a group as it is to be restored, read from the disk."""
    for name, path in group.files:
        if group.guarantee == "voxels":
            yield name, iter([native.without_compression(_gathered(_pieces(path, name)))])
        else:
            yield name, gzip.pieces(path, name) if group.guarantee == "content" else _pieces(path, name)


def original(name: str, path: Path) -> dict[str, Any]:
    """Size, SHA-256 and transfer syntax of a DICOM file as it lies on the disk."""
    data = _gathered(_pieces(path, name))
    digest = hashlib.sha256(data).digest()
    return {"bytes": len(data), "sha256": digest, "transfer_syntax": native.transfer_syntax(data)}


def content_size(group: Group) -> int | None:
    """The decompressed size in bytes of an image in gzip; None for any other file.

    Where it is not None, guarantee 'content' is possible. Decompresses all of the file.
    """
    if not group.wrapped or group.source not in IN_GZIP or len(group.files) > 1:
        return None
    [(name, path)] = group.files
    try:
        source = _inside_gzip(path, name)
        return _proven_content_size(source, path, name) if source else None
    except UnsupportedInputError:
        return None


def _unreadable(name: str, error: OSError) -> StorageError:
    return StorageError(f"{name}: expected a readable file, found: {error.strerror}; check path and permissions")


def _pieces(path: Path, name: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(gzip.PIECE_BYTES):
                yield piece
    except OSError as error:
        raise _unreadable(name, error) from error


def _gathered(pieces: Iterator[bytes]) -> bytes:
    buffer = io.BytesIO()  # grows in place, where joining pieces would hold everything twice
    for piece in pieces:
        buffer.write(piece)
    return buffer.getvalue()


def _detected(head: bytes) -> Source | None:
    return next((source for source in SOURCES.values() if source.detect(head)), None)


def _recognised(path: Path, name: str) -> tuple[Source | None, str | None]:
    """The source that reads a file, and the archive that the file belongs to if it lies in a folder."""
    try:
        with path.open("rb") as file:
            source = _detected(file.read(HEAD_BYTES))
            if source is None:
                return None, None
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return source, source.archive_name(file, size, name)
    except OSError as error:
        raise _unreadable(name, error) from error


def _unwrapped(source: Source, files: dict[str, bytes]) -> tuple[Skeleton, list[Volume]]:
    """Files in gzip as what `source` makes of their content; whole where they cannot be rebuilt, or nothing in them is coded."""
    kept = {name: whole(name, data) for name, data in files.items()}
    packed = {name: data for name, data in files.items() if data.startswith(pairs.GZIP_MAGIC)}
    inside = {name: found for name, data in packed.items() if (found := opened(data, name))}
    # A header that is not worth its side information is read all the same.
    heads = {name: gzip.start(data, pairs.MAX_HEADER_BYTES) for name, data in packed.items() if name not in inside}
    unpacked = files | heads | {name: found.data for name, found in inside.items()}
    skeleton, volumes = Skeleton(), list[Volume]()
    while unpacked:
        try:
            skeleton, volumes = source.split(unpacked.items())
            lost = {file.name for file in skeleton.files if file.voxels and file.name in heads}
        except UnsupportedInputError:
            lost = heads.keys() & unpacked.keys()
        if not lost:
            break
        unpacked, volumes = {name: data for name, data in unpacked.items() if name not in lost}, []
    if not volumes:
        return Skeleton(tuple(kept.values())), []
    closed = (inside[file.name].closed(file, volumes) if file.name in inside else file for file in skeleton.files)
    return Skeleton(tuple((kept | {file.name: file for file in closed if file.name not in heads}).values())), volumes


def _inside_gzip(path: Path, name: str) -> Source | None:
    """The source that reads what a gzip file holds, as far as its start tells; None for any other file."""
    try:
        with path.open("rb") as file:
            head = gzip.start(file.read(16 * HEAD_BYTES), HEAD_BYTES)
    except OSError as error:
        raise _unreadable(name, error) from error
    return _detected(head)


def _proven_content_size(source: Source, path: Path, name: str) -> int:
    """The size of a gzip file's content in bytes, once all of it was decompressed and its header found to fit."""
    pieces = gzip.pieces(path, name)
    first = next(pieces, b"")
    size = len(first) + sum(map(len, pieces))
    source.archive_name(io.BytesIO(first), size, name)
    return size


def _gzip_group(path: Path, name: str, guarantee: str) -> Group | None:
    """The group of a gzip file with a readable source inside; for 'content', all of it is decompressed to prove it intact."""
    source = _inside_gzip(path, name)
    if source is None:
        return None
    if guarantee == "file" or source.name not in IN_GZIP:
        return Group(f"{name}.mdz", source.name, ((name, path),), wrapped=True)
    _proven_content_size(source, path, name)
    stored = name[:-3] if PurePosixPath(name).suffix.lower() == ".gz" else name
    return Group(f"{name}.mdz", source.name, ((stored, path),), "content")


def _named_group(path: Path, guarantee: str, store: bool) -> Group:
    """The group of a file that was named alone; with `store`, of any file."""
    try:
        return _pair_with(path) or _file_group(path, guarantee)
    except UnsupportedInputError:
        if not store:
            raise
        name = portable(path.name)
        return Group(f"{name}.mdz", STORED, ((name, path),))


def _pair_with(path: Path) -> Group | None:
    """The group of a file and the other one of its pair; None for a file that is an image by itself, or none."""
    pair = pairs.beside(path, IMAGES)
    return _pair_group(pair, {name: path.with_name(name) for name in (pair.header, pair.data)}) if pair else None


def _pair_group(pair: pairs.Pair, files: Mapping[str, Path]) -> Group:
    members = tuple((portable(name), files[name]) for name in sorted((pair.header, pair.data)))
    return Group(f"{pair.header}.mdz", pair.source, members, wrapped=pair.packed)


def _file_group(path: Path, guarantee: str) -> Group:
    name = portable(path.name)
    source, _ = _recognised(path, name)
    if source is not None:
        return Group(f"{name}.mdz", source.name, ((name, path),))
    group = _gzip_group(path, name, guarantee)
    if group is None:
        raise broken(name, SUPPORTED, "none of these")
    return group


def _group_in_folder(path: Path, name: str, guarantee: str) -> Group | None:
    """The group that a file of a folder is in, or a part of; None for what is kept whole with the rest."""
    try:
        source, archive = _recognised(path, name)
        if source is None:
            group = _gzip_group(path, name, guarantee)
            return group if group is None or group.source in IN_GZIP else _series_group(group)
    except UnsupportedInputError:
        return None
    return Group(archive, source.name, ((name, path),)) if archive else None


def _series_group(group: Group) -> Group | None:
    """The group of a DICOM file in gzip, named after its series; None where it has no pixels."""
    [(name, path)] = group.files
    content = _gathered(gzip.pieces(path, name))
    archive = SOURCES[group.source].archive_name(io.BytesIO(content), len(content), name)
    return replace(group, name=archive) if archive else None


def _folder_groups(folder: Path, guarantee: str) -> list[Group]:
    files = dict(_walk(folder))
    own: list[Group] = []
    shared: dict[tuple[str, str, bool], list[tuple[str, Path]]] = {}
    restored = set(files)
    for pair in pairs.among(files, IMAGES):
        own.append(_pair_group(pair, files))
        del files[pair.header], files[pair.data]
    for name, path in files.items():
        group = _group_in_folder(path, name, guarantee)
        if group and group.guarantee == "content" and group.files[0][0] in restored - {name}:
            group = _gzip_group(path, name, "file")  # its content would be restored over another file
        if group and group.name == f"{name}.mdz":
            restored.add(group.files[0][0])
            own.append(group)
        else:
            key = (group.name, group.source, group.wrapped) if group else ("rest.mdz", STORED, False)
            shared.setdefault(key, []).append((name, path))
    taken = {group.name.casefold() for group in own}
    for (archive, source, wrapped), members in shared.items():
        while archive.casefold() in taken:
            archive = f"_{archive}"
        taken.add(archive.casefold())
        own.append(Group(archive, source, tuple(members), wrapped=wrapped))
    return sorted(own, key=lambda group: group.name)


def _walk(folder: Path) -> list[tuple[str, Path]]:
    """(relative POSIX name, path) of the regular files below a folder, sorted by name."""

    def fail(error: OSError) -> None:
        raise error

    try:
        paths = [Path(root, name) for root, _, names in os.walk(folder, onerror=fail) for name in names]
        regular = [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]
    except OSError as error:
        raise _unreadable(str(error.filename), error) from error
    return sorted((portable(path.relative_to(folder).as_posix()), path) for path in regular)


def portable(name: str) -> str:
    """A file name as it is; raises UnsupportedInputError for one that no archive could hold, as it is not Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise broken(ascii(name), "a file name in Unicode", "other bytes; rename it") from error
    return name
