"""JPEG XL for pydicom 3: `medzip.pydicom_plugin.register()`, then `pixel_array`, `decompress` and `compress` know it.

Transfer syntaxes of PS3.5 section 8.2.15 and annex A.4: lossless (.110), JPEG recompression (.111, decoded only) and JPEG XL
(.112). This file needs pydicom, numpy and imagecodecs, and nothing else of medzip: it may be copied into another project.

JPEG XL knows no negative samples: signed ones are coded as the words they are stored in, as JPEG lossless and JPEG-LS are in
DICOM. The codestream has as many bits as BitsStored says, or BitsAllocated where unused bits hold something of their own.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.pixels.decoders import base as decoders
from pydicom.pixels.encoders import base as encoders
from pydicom.uid import UID

LOSSLESS = UID("1.2.840.10008.1.2.4.110")
JPEG_RECOMPRESSION = UID("1.2.840.10008.1.2.4.111")
JPEG_XL = UID("1.2.840.10008.1.2.4.112")
NAMES = {
    LOSSLESS: ("JPEG XL Lossless", "JPEGXLLossless"),
    JPEG_RECOMPRESSION: ("JPEG XL JPEG Recompression", "JPEGXLJPEGRecompression"),
    JPEG_XL: ("JPEG XL", "JPEGXL"),
}
LABEL = "medzip"
EFFORT = 7
"""Effort 1 of libjxl 0.11 corrupts memory on noisy images of 14 bits and more."""
DECODER_DEPENDENCIES = dict.fromkeys(NAMES, ("numpy", "imagecodecs>=2026.3.6"))
ENCODER_DEPENDENCIES = dict.fromkeys((LOSSLESS, JPEG_XL), ("numpy", "imagecodecs>=2026.3.6"))
PROFILE: list[encoders.ProfileType] = [
    ("MONOCHROME1", 1, (0, 1), (8, 16), range(1, 17)),
    ("MONOCHROME2", 1, (0, 1), (8, 16), range(1, 17)),
    ("PALETTE COLOR", 1, (0,), (8, 16), range(1, 17)),
    ("YBR_FULL", 3, (0,), (8, 16), range(1, 17)),
    ("RGB", 3, (0,), (8, 16), range(1, 17)),
]


def register() -> None:
    """Makes JPEG XL known to pydicom in this process; calling it again changes nothing."""
    for uid, (name, keyword) in NAMES.items():
        UID_dictionary.setdefault(str(uid), (name, "Transfer Syntax", "", "", keyword))
        decoder, _ = decoders._PIXEL_DATA_DECODERS.setdefault(uid, (_Decoder(uid), "3.0"))
        if LABEL not in decoder._available:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))
    for uid in ENCODER_DEPENDENCIES:
        encoders.ENCODING_PROFILES.setdefault(uid, PROFILE)
        encoder, _ = encoders._PIXEL_DATA_ENCODERS.setdefault(uid, (encoders.Encoder(uid), "3.0"))
        if LABEL not in encoder._available:
            encoder.add_plugin(LABEL, (__name__, "encode_frame"))


def is_available(uid: str) -> bool:
    """For pydicom: whether this imagecodecs has JPEG XL."""
    return uid in NAMES and bool(imagecodecs.JPEGXL.available)


class _Decoder(decoders.Decoder):
    """pydicom's, which refuses the photometric interpretation XYB (PS3.3 C.7.6.3.1.2): JPEG XL decodes that to RGB."""

    def as_array(self, src: Any, **options: Any) -> Any:
        return super().as_array(src, **_without_xyb(src, options))

    def iter_array(self, src: Any, **options: Any) -> Any:
        return super().iter_array(src, **_without_xyb(src, options))

    def as_buffer(self, src: Any, **options: Any) -> Any:
        return super().as_buffer(src, **_without_xyb(src, options))

    def iter_buffer(self, src: Any, **options: Any) -> Any:
        return super().iter_buffer(src, **_without_xyb(src, options))


def _without_xyb(src: Any, options: dict[str, Any]) -> dict[str, Any]:
    xyb = isinstance(src, Dataset) and src.get("PhotometricInterpretation") == "XYB"
    return {**options, "photometric_interpretation": "RGB"} if xyb else options


def decode_frame(src: bytes, runner: decoders.DecodeRunner) -> bytes:
    """pydicom's decoding plugin: little endian words of BitsAllocated, colours by pixel, of one codestream.

    Raises ValueError where the codestream is none, or of another size than the data set says.
    """
    shape = (runner.rows, runner.columns, *((3,) if runner.samples_per_pixel == 3 else ()))
    samples = _decoded(src, shape, narrow_first=runner.bits_stored <= 8)
    bits = runner.bits_allocated
    if samples.dtype.itemsize * 8 > bits:
        raise ValueError(f"expected a JPEG XL codestream of {bits} bits or fewer, found 16")
    words = samples.astype(f"<u{bits // 8}")
    if runner.samples_per_pixel == 3:
        runner.set_option("planar_configuration", 0)
        if runner.transfer_syntax != LOSSLESS:  # libjxl gives RGB for what is XYB or YCbCr inside
            runner.set_option("photometric_interpretation", "RGB")
    shift = bits - runner.bits_stored
    if runner.pixel_representation and shift and int(words.max()) >> runner.bits_stored == 0:
        words = ((words << shift).view(f"<i{bits // 8}") >> shift).view(words.dtype)
    return words.tobytes()


def _decoded(stream: bytes, shape: tuple[int, ...], *, narrow_first: bool) -> NDArray[np.unsignedinteger[Any]]:
    """Samples of 8 or 16 bits. Given an output, imagecodecs allocates nothing for what a codestream may claim."""
    error: Exception | None = None
    for dtype in ("u1", "u2") if narrow_first else ("u2", "u1"):
        samples: NDArray[np.unsignedinteger[Any]] = np.empty(shape, dtype)
        try:
            imagecodecs.jpegxl_decode(stream, numthreads=1, out=samples)
        except Exception as refused:  # imagecodecs raises several kinds
            error = refused
        else:
            return samples
    raise ValueError(f"expected a JPEG XL codestream of {shape} and 8 or 16 bits, found another: {error}") from error


def encode_frame(src: bytes, runner: encoders.EncodeRunner) -> bytes:
    """pydicom's encoding plugin: one codestream for the little endian words of a frame."""
    channels = runner.samples_per_pixel
    words = np.frombuffer(src, f"<u{len(src) // (runner.rows * runner.columns * channels)}")
    if channels == 3 and runner.planar_configuration == 1 and not runner.is_array:
        words = np.moveaxis(words.reshape(3, runner.rows, runner.columns), 0, -1)
    shape = (runner.rows, runner.columns, *((3,) if channels == 3 else ()))
    return encoded(words.reshape(shape), runner.bits_stored, signed=runner.pixel_representation == 1)


def encoded(words: NDArray[np.unsignedinteger[Any]], bits_stored: int, *, signed: bool = False) -> bytes:
    """A lossless JPEG XL codestream of the stored words of a frame, uint8 or uint16, (rows, columns) or (rows, columns, 3).

    Signed words are given as what they are in memory (`samples.view('u2')`). Every bit of them comes back: as many bits are coded
    as are stored, and all where the unused ones are not just zero or, of signed words, copies of the sign.
    """
    bits = 8 * words.dtype.itemsize
    if words.dtype.kind != "u" or bits > 16:
        raise ValueError(f"expected words of 8 or 16 bits, found {words.dtype}")
    shift = max(bits - bits_stored, 0)
    cut = words & words.dtype.type((1 << (bits - shift)) - 1)
    again = ((cut << shift).view(f"i{bits // 8}") >> shift).view(words.dtype) if signed else cut
    if shift and np.array_equal(again, words):
        bits, words = bits - shift, cut.astype("u1" if bits_stored <= 8 else "u2")
    photometric = "rgb" if words.ndim == 3 else "gray"
    image = np.ascontiguousarray(words, words.dtype.newbyteorder("="))
    return bytes(
        imagecodecs.jpegxl_encode(image, lossless=True, effort=EFFORT, photometric=photometric, bitspersample=bits, numthreads=1)
    )
