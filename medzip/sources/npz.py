"""NumPy's .npz: a ZIP file (PKWARE's APPNOTE) of .npy files, stored or deflated."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import replace
from typing import BinaryIO

from medzip.errors import UnsupportedInputError
from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource, take_apart_opened
from medzip.sources.npy import MAX_HEADER_BYTES, NpySource
from medzip.sources.wrappers.streams import opened_at
from medzip.volume import FileSkeleton, Volume

LOCAL_HEADER = struct.Struct("<4s22xHH")


class NpzSource(ImageSource):
    """The arrays of all members in the order of the directory, each as in a .npy file."""

    name = "npz"

    def detect(self, head: bytes) -> bool:
        if head[:4] != b"PK\x03\x04" or len(head) < LOCAL_HEADER.size:
            return False
        _, length, _ = LOCAL_HEADER.unpack_from(head)
        return head[LOCAL_HEADER.size : LOCAL_HEADER.size + length].endswith(b".npy")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        stored = [member for member in _members(file, name) if member.compress_type == zipfile.ZIP_STORED]
        return [found for member in stored for found in _arrays(file, _content(file, member, name), member.file_size, name)]

    def taken(self, header_name: str, header: bytes, name: str, data: bytes) -> tuple[FileSkeleton, list[Volume]]:
        """All members, where any is deflated; stored ones that lie close between those are parts of what is kept of them."""
        file = io.BytesIO(data)
        members = _members(file, name)
        starts = [_content(file, member, name) for member in members]
        places = [
            (start, start + member.compress_size, member.file_size)
            for member, start in zip(members, starts, strict=True)
            if member.compress_type == zipfile.ZIP_DEFLATED
        ]
        if not places:
            return super().taken(header_name, header, name, data)
        inside = opened_at(data, name, places, raw=True)
        begins, images = iter(inside.begins), list[Image]()
        for member, start in zip(members, starts, strict=True):
            begin = next(begins) if member.compress_type == zipfile.ZIP_DEFLATED else inside.moved(start)
            if begin >= 0:
                images += _arrays(io.BytesIO(inside.data), begin, member.file_size, name)
        return take_apart_opened(name, data, inside, images)


def _members(file: BinaryIO, name: str) -> list[zipfile.ZipInfo]:
    """The members that may be arrays."""
    try:
        with zipfile.ZipFile(file) as archive:
            return [member for member in archive.infolist() if _is_plain(member)]
    # NotImplementedError is zipfile's word for versions and methods that it does not read.
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeError) as error:
        raise broken(name, "a ZIP file with a directory", "damage") from error


def _is_plain(member: zipfile.ZipInfo) -> bool:
    plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
    usual = plain or member.compress_type == zipfile.ZIP_DEFLATED
    return usual and not member.flag_bits & 1 and member.filename.endswith(".npy")


def _content(file: BinaryIO, member: zipfile.ZipInfo, name: str) -> int:
    """Where what a member holds begins in the file."""
    file.seek(max(member.header_offset, 0))
    start = file.read(LOCAL_HEADER.size) if member.header_offset >= 0 else b""
    if len(start) < LOCAL_HEADER.size or not start.startswith(b"PK\x03\x04"):
        raise broken(name, "a ZIP member where the directory says", "something else")
    _, name_length, extra_length = LOCAL_HEADER.unpack(start)
    return int(member.header_offset + LOCAL_HEADER.size + name_length + extra_length)


def _arrays(file: BinaryIO, offset: int, size: int, name: str) -> list[Image]:
    """The array of a .npy file of `size` bytes that lies at `offset`."""
    file.seek(offset)
    inside = io.BytesIO(file.read(min(size, 2 * MAX_HEADER_BYTES)))
    try:
        found = NpySource().images(inside, size, name)
    except UnsupportedInputError:  # objects, or no array at all
        return []
    return [replace(one, offsets=tuple(offset + own for own in one.offsets)) for one in found]
