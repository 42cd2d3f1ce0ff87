"""NumPy's .npz: a ZIP file (PKWARE's APPNOTE) of .npy files, of which those that are stored, not deflated, are coded."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import replace
from typing import BinaryIO

from medzip.errors import UnsupportedInputError
from medzip.sources.contract import broken
from medzip.sources.image import Image, ImageSource
from medzip.sources.npy import MAX_HEADER_BYTES, NpySource

LOCAL_HEADER = struct.Struct("<4s22xHH")


class NpzSource(ImageSource):
    """The arrays of all stored members in the order of the directory, each as in a .npy file."""

    name = "npz"

    def detect(self, head: bytes) -> bool:
        if head[:4] != b"PK\x03\x04" or len(head) < LOCAL_HEADER.size:
            return False
        _, length, _ = LOCAL_HEADER.unpack_from(head)
        return head[LOCAL_HEADER.size : LOCAL_HEADER.size + length].endswith(b".npy")

    def images(self, file: BinaryIO, size: int, name: str) -> list[Image]:  # noqa: ARG002, every format is called with all of these
        try:
            with zipfile.ZipFile(file) as archive:
                members = [member for member in archive.infolist() if _is_plain(member)]
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeError) as error:
            raise broken(name, "a ZIP file with a directory", "damage") from error
        return [found for member in members for found in _arrays(file, member, name)]


def _is_plain(member: zipfile.ZipInfo) -> bool:
    plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
    return plain and member.compress_size == member.file_size and member.filename.endswith(".npy")


def _arrays(file: BinaryIO, member: zipfile.ZipInfo, name: str) -> list[Image]:
    file.seek(max(member.header_offset, 0))
    start = file.read(LOCAL_HEADER.size) if member.header_offset >= 0 else b""
    if len(start) < LOCAL_HEADER.size or not start.startswith(b"PK\x03\x04"):
        raise broken(name, "a ZIP member where the directory says", "something else")
    _, name_length, extra_length = LOCAL_HEADER.unpack(start)
    offset = member.header_offset + LOCAL_HEADER.size + name_length + extra_length
    file.seek(offset)
    inside = io.BytesIO(file.read(min(member.file_size, 2 * MAX_HEADER_BYTES)))
    try:
        found = NpySource().images(inside, member.file_size, name)
    except UnsupportedInputError:  # objects, or no array at all
        return []
    return [replace(one, offsets=tuple(offset + own for own in one.offsets)) for one in found]
