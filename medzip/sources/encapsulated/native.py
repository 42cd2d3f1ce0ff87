"""Files in lossless JPEG 2000, HTJ2K and JPEG XL as files without compression: explicit VR little endian, all else unchanged.

Nobody can make these streams again, so their voxels can be coded only where the bytes of the file are given up: guarantee
'voxels'. A file whose streams are lossy stays as it is, as no lossless code of its voxels is as small, and so does one whose
voxels could be understood in two ways.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from medzip.errors import UnsupportedInputError
from medzip.sources.dicom_elements import EXPLICIT_LITTLE, PREAMBLE_BYTES, Element, Elements
from medzip.sources.encapsulated.contract import Samples
from medzip.sources.encapsulated.items import frames

TRANSFER_SYNTAX, META_LENGTH = 0x00020010, 0x00020000
LOSSLESS_JPEG_2000, JPEG_2000 = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
LOSSLESS_HTJ2K, HTJ2K = {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202"}, "1.2.840.10008.1.2.4.203"
JPEG_XL = "1.2.840.10008.1.2.4.110"
LOSSLESS = {LOSSLESS_JPEG_2000, JPEG_XL, *LOSSLESS_HTJ2K}
NATIVE = b"1.2.840.10008.1.2.1\0"
CODESTREAM = b"\xff\x4f\xff\x51"
SEQUENCE_END = bytes.fromhex("feffdde000000000")
PHOTOMETRIC, PLANAR, LOSSY = 0x00280004, 0x00280006, 0x00282110
OFFSET_TABLES = (0x7FE00001, 0x7FE00002, 0x7FE00003)
PIXELS, PIXELS_LENGTH = 0x7FE00010, 0x7FE00000
NUMBERS = {"samples": 0x00280002, "rows": 0x00280010, "columns": 0x00280011, "bits": 0x00280100, "signed": 0x00280103}
FRAMES = 0x00280008
TRANSFORMED = (b"YBR_RCT", b"YBR_ICT")
MOST_BYTES = (1 << 32) - 2


@dataclass(frozen=True)
class _Codestream:
    """What the main header of a JPEG 2000 codestream says (ISO/IEC 15444-1 A.5.1, A.6.1)."""

    shape: tuple[int, ...]
    precision: int
    signed: bool
    components: int
    colours_transformed: bool
    reversible: bool


class _StaysError(Exception):
    """A file that is to stay as it is."""


def without_compression(data: bytes) -> bytes:
    """The file with native pixel data, or the same bytes where it has none that this is for, or is not to be touched."""
    try:
        return b"".join(_rewritten(data))
    except (_StaysError, UnsupportedInputError, struct.error, ValueError):
        return data


def transfer_syntax(data: bytes) -> str:
    """The transfer syntax of a file that starts with a preamble, empty where it names none."""
    if data[PREAMBLE_BYTES - 4 : PREAMBLE_BYTES] != b"DICM":
        return ""
    elements, offset = Elements(io.BytesIO(data), len(data), ""), PREAMBLE_BYTES
    while elements.bytes_at(offset, 2) == b"\x02\x00":
        element = elements.element_at(offset, EXPLICIT_LITTLE)
        if element.tag == TRANSFER_SYNTAX:
            return elements.value(element).decode("ascii", "replace").strip("\0 ")
        offset = elements.end_of(element, EXPLICIT_LITTLE)
    return ""


def _rewritten(data: bytes) -> list[bytes]:
    """The pieces of the file without compression."""
    syntax = transfer_syntax(data)
    if syntax not in LOSSLESS | {JPEG_2000, HTJ2K}:
        raise _StaysError
    elements, pieces, offset = Elements(io.BytesIO(data), len(data), ""), [data[:PREAMBLE_BYTES]], PREAMBLE_BYTES
    header: dict[int, bytes] = {}
    for element in elements.following(offset, EXPLICIT_LITTLE):
        end = elements.end_of(element, EXPLICIT_LITTLE)
        if element.tag == PIXELS:
            pieces += [*_pixels(data, element, header, syntax), data[end:]]
            return _with_meta_length(pieces, len(NATIVE) - len(header[TRANSFER_SYNTAX]))
        head, value = data[offset : element.offset], data[element.offset : end]
        header[element.tag] = value if element.length is not None and element.length <= 64 else b""
        if element.tag == TRANSFER_SYNTAX:
            head, value = head[:-2] + struct.pack("<H", len(NATIVE)), NATIVE
        elif element.tag == PHOTOMETRIC and value.strip(b"\0 ") in TRANSFORMED:
            value = b"RGB".ljust(len(value))
        elif element.tag == PLANAR:
            value = bytes(len(value))
        elif element.tag == PIXELS_LENGTH or not element.vr.isalpha():  # a length that would be wrong; a VR that is left out
            raise _StaysError
        if element.tag not in OFFSET_TABLES:
            pieces += [head, value]
        offset = end
    raise _StaysError


def _with_meta_length(pieces: list[bytes], grown: int) -> list[bytes]:
    """The group length of the meta information, the first element if it is there (PS3.10 section 7.1), corrected."""
    if len(pieces) > 2 and pieces[1][:4] == struct.pack("<HH", META_LENGTH >> 16, 0) and len(pieces[2]) == 4:
        pieces[2] = struct.pack("<I", struct.unpack("<I", pieces[2])[0] + grown)
    return pieces


def _pixels(data: bytes, element: Element, header: dict[int, bytes], syntax: str) -> list[bytes]:
    """The native element of pixel data, from the header's elements before it by tag."""
    number = {name: struct.unpack("<H", header[tag])[0] for name, tag in NUMBERS.items() if len(header.get(tag, b"")) == 2}
    if element.length is not None or len(number) != len(NUMBERS) or number["bits"] not in (8, 16):
        raise _StaysError
    count = int(header.get(FRAMES, b"").strip(b"\0 ") or 1)
    encoded = frames(data, element.offset, count)
    if len(encoded) != count or not data.startswith(SEQUENCE_END, encoded[-1][-1].end):
        raise _StaysError
    dtype = np.dtype(f"<{'i' if number['signed'] else 'u'}{number['bits'] // 8}")
    shape = (number["rows"], number["columns"], *((3,) if number["samples"] == 3 else ()))
    photometric = header.get(PHOTOMETRIC, b"").strip(b"\0 ")
    yellow = syntax == JPEG_XL and photometric.startswith(b"YBR") and photometric not in TRANSFORMED
    if count * int(np.prod(shape)) * dtype.itemsize > MOST_BYTES or number["samples"] not in (1, 3) or yellow:
        raise _StaysError
    decoded = []
    for fragments in encoded:
        stream = b"".join(data[item.offset : item.end] for item in fragments)
        if syntax != JPEG_XL:
            _check_codestream(stream, header, shape, number["bits"], syntax)
        samples = _decoded(stream, syntax, shape, dtype)
        decoded.append(samples.astype(dtype).tobytes())
    length = sum(map(len, decoded))
    kind = b"OB" if number["bits"] == 8 else b"OW"
    head = struct.pack("<HH2sHI", PIXELS >> 16, PIXELS & 0xFFFF, kind, 0, length + length % 2)
    return [head, *decoded, bytes(length % 2)]


def _check_codestream(stream: bytes, header: dict[int, bytes], shape: tuple[int, ...], bits: int, syntax: str) -> None:
    """Raises _StaysError where a JPEG 2000 codestream is lossy, or says other things than the header of the file."""
    said = _codestream(stream)
    photometric = header.get(PHOTOMETRIC, b"").strip(b"\0 ")
    if not said.reversible or (syntax not in LOSSLESS and header.get(LOSSY, b"").strip(b"\0 ") == b"01"):
        raise _StaysError
    if said.shape != shape or said.signed != (header[NUMBERS["signed"]] == b"\1\0") or said.precision > bits:
        raise _StaysError
    # What a palette or a colour space of boxes does to samples depends on the decoder.
    boxed = not stream.startswith(CODESTREAM)
    transformed = photometric in TRANSFORMED
    if (boxed and said.components > 1) or b"pclr" in stream[:512] or (transformed and not said.colours_transformed):
        raise _StaysError
    if said.colours_transformed and not transformed and photometric != b"RGB":
        raise _StaysError


def _decoded(stream: bytes, syntax: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Samples:
    """A frame, decoded to integers no wider than `dtype`; red, green and blue whatever is inside JPEG XL."""
    import imagecodecs

    try:
        if syntax == JPEG_XL:
            samples: Samples = imagecodecs.jpegxl_decode(stream, numthreads=1, out=np.empty(shape, dtype))
        elif syntax in (LOSSLESS_JPEG_2000, JPEG_2000):
            samples = imagecodecs.jpeg2k_decode(stream, numthreads=1)
        else:
            samples = imagecodecs.htj2k_decode(stream)
    except Exception as error:  # whatever the library does not take
        raise _StaysError from error
    if samples.shape != shape or samples.dtype.kind != dtype.kind or samples.dtype.itemsize > dtype.itemsize:
        raise _StaysError
    return samples


def _codestream(stream: bytes) -> _Codestream:
    """The main header, from markers SIZ and COD. Raises _StaysError for components that differ, and where they are not there."""
    position = stream.find(CODESTREAM)
    size, style = b"", b""
    if position < 0:
        raise _StaysError
    position += 2
    while stream[position : position + 2] not in (b"\xff\x90", b""):
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        payload = stream[position + 4 : position + 2 + length]
        size, style = (payload if stream[position + 1] == 0x51 else size), (payload if stream[position + 1] == 0x52 else style)
        position += 2 + max(length, 2)
    components = {size[36 + 3 * number : 39 + 3 * number] for number in range(int.from_bytes(size[34:36], "big"))}
    if len(components) != 1 or len(style) < 10 or not all(part[1:] == b"\1\1" for part in components):
        raise _StaysError
    depth = next(iter(components))[0]
    width, height, left, top = struct.unpack_from(">4I", size, 2)
    count = int.from_bytes(size[34:36], "big")
    shape = (height - top, width - left, *((count,) if count > 1 else ()))
    return _Codestream(shape, (depth & 127) + 1, depth > 127, count, style[4] == 1, style[9] == 1)
