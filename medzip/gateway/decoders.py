"""What worker processes do with the data of strangers: archives back into files, and compressed frames into plain ones.

Frames are decoded by imagecodecs, as a plugin of pydicom 3, which applies what the header says of colours and signs.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medzip.archived_file import opened
from medzip.errors import MedzipError, StorageError, UnsupportedInputError, UsageError, VerificationError
from medzip.gateway.headers import BIG_ENDIAN, EXPLICIT, IMPLICIT
from medzip.scan import Scan

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

Progress = Callable[[str, int, int], None]
LABEL = "medzip-imagecodecs"
JPEG = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
JPEG_LOSSLESS = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
JPEG_2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
HTJ2K = {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"}
DECODER_DEPENDENCIES = dict.fromkeys((*JPEG, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000, *HTJ2K), ("numpy", "imagecodecs"))
WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
BLOCK = 1 << 20


@dataclass(frozen=True)
class Restoring:
    """Files of an archive, by name, and where each goes."""

    archive: Path
    targets: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class Converting:
    """A DICOM file, and where it goes in another, uncompressed transfer syntax."""

    source: Path
    target: Path
    syntax: str


@dataclass(frozen=True)
class Describing:
    """Instances whose headers are asked for: (archive, name in it), or (None, path)."""

    sources: tuple[tuple[Path | None, str], ...]


@dataclass(frozen=True)
class Framing:
    """Frames of a DICOM file, counted from 1, and the file they go to, one after another; `stored`: not decoded."""

    source: Path
    target: Path
    frames: tuple[int, ...]
    stored: bool


def warm_up(_job: object, _progress: Progress) -> None:
    """Loads what the first restoring would wait for."""
    from medzip import pipeline  # noqa: F401, with all that is compiled

    register()


def restore(job: Restoring, progress: Progress) -> int:
    """Brings files back, those of the first slices first, each complete and proved when `progress` names it. Counts them.

    Raises VerificationError, StorageError, and what decoding raises.
    """
    targets = dict(job.targets)
    with Scan(job.archive) as scan:
        files = [file for file in scan.skeleton().files if file.name in targets]
        if len(files) != len(targets):
            raise scan.damaged("the files that were asked for")
        places = {file.name: min(((run.volume, run.first) for run in file.voxels), default=(-1, 0)) for file in files}
        for number, file in enumerate(sorted(files, key=lambda file: places[file.name]), 1):
            found, target = hashlib.sha256(), targets[file.name]
            temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            try:
                with opened(scan, file) as stream, temporary.open("xb") as copy:
                    while block := stream.read(BLOCK):
                        found.update(block)
                        copy.write(block)
                if found.digest() != scan.digests[file.name]:
                    raise VerificationError(f"{file.name}: expected the SHA-256 of the original, found another")
                temporary.replace(target)
            except OSError as error:
                raise StorageError(f"{target}: {error.strerror}; check the spool's disk") from error
            finally:
                temporary.unlink(missing_ok=True)
            progress(file.name, number, len(files))
    return len(files)


def convert(job: Converting, _progress: Progress) -> None:
    """Writes a DICOM file in explicit or implicit VR little endian, its pixels decoded. Identity and all other elements stay.

    Raises UnsupportedInputError where pydicom or imagecodecs cannot decode it, StorageError.
    """
    from pydicom import dcmread, dcmwrite
    from pydicom.uid import UID

    register()
    try:
        dataset = dcmread(job.source)
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            dataset.decompress(decoding_plugin=_plugin(syntax), generate_instance_uid=False)
        elif syntax == BIG_ENDIAN:
            _swap_words(dataset)
        dataset.file_meta.TransferSyntaxUID = UID(job.syntax)
        temporary = job.target.with_name(f".{job.target.name}.{secrets.token_hex(4)}")
        try:
            options = {"little_endian": True, "force_encoding": True}
            dcmwrite(temporary, dataset, implicit_vr=job.syntax == IMPLICIT, **options)
            temporary.replace(job.target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{job.target}: {error.strerror}; check the spool's disk") from error
    except MedzipError:
        raise
    except Exception as error:  # pydicom and imagecodecs raise whatever a file makes them run into
        raise UnsupportedInputError(f"expected pixel data that can be decoded, found other ({type(error).__name__})") from error


def describe(job: Describing, _progress: Progress) -> list[str | None]:
    """The header of each instance in the DICOM JSON model (PS3.18 annex F), all but pixel data; None where it cannot be read."""
    register()
    found: list[str | None] = []
    for archive, sources in itertools.groupby(job.sources, key=lambda source: source[0]):
        names = [name for _, name in sources]
        if archive is None:
            for name in names:
                if Path(name).is_file():
                    with Path(name).open("rb") as file:
                        found.append(_json(file))
                else:
                    found.append(None)
            continue
        with Scan(archive) as scan:
            files = {file.name: file for file in scan.skeleton().files}
            for name in names:
                found.append(_json(opened(scan, files[name])) if name in files else None)
    return found


def frames(job: Framing, _progress: Progress) -> list[int]:
    """Writes frames: little endian words, colours as stored or, decoded, by pixel; or as they are encoded. Returns the length
    of each in bytes.

    Raises UsageError for frames that are not there, UnsupportedInputError for what cannot be decoded, StorageError.
    """
    from pydicom import dcmread

    register()
    try:
        dataset = dcmread(job.source)
        if max(job.frames) > int(dataset.get("NumberOfFrames") or 1):
            raise UsageError("expected frames that the instance has, found others")
        parts = _frames(dataset, job.frames, stored=job.stored)
        job.target.write_bytes(b"".join(parts))
    except OSError as error:
        raise StorageError(f"{job.target}: {error.strerror}; check the spool's disk") from error
    except MedzipError:
        raise
    except Exception as error:  # as in `convert`
        raise UnsupportedInputError(f"expected pixel data that can be decoded, found other ({type(error).__name__})") from error
    return list(map(len, parts))


def _frames(dataset: FileDataset, numbers: tuple[int, ...], *, stored: bool) -> list[bytes]:
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import iter_pixels

    count = int(dataset.get("NumberOfFrames") or 1)
    syntax = dataset.file_meta.TransferSyntaxUID
    if stored and syntax.is_encapsulated:
        return [get_frame(dataset.PixelData, number - 1, number_of_frames=count) for number in numbers]
    if not syntax.is_encapsulated and syntax != BIG_ENDIAN and dataset.BitsAllocated % 8 == 0:
        size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        if len(dataset.PixelData) < size * count:
            raise ValueError("the pixel data is shorter than its frames")
        return [dataset.PixelData[size * (number - 1) : size * number] for number in numbers]
    arrays = iter_pixels(dataset, decoding_plugin=_plugin(syntax), indices=[number - 1 for number in numbers], raw=True)
    return [np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays]


def _json(file: BinaryIO) -> str | None:
    from pydicom import dcmread

    try:
        dataset = dcmread(file, stop_before_pixels=True)
        return str(dataset.to_json(suppress_invalid_tags=True))
    except Exception:  # pydicom raises whatever a broken header makes it run into
        return None


def _swap_words(dataset: FileDataset) -> None:
    """Words of other value representations than numbers, which pydicom leaves as they are stored, in the other byte order."""

    def swap(_dataset: Any, element: Any) -> None:
        size = WORD_BYTES.get(element.VR)
        if element.keyword == "PixelData" and size:
            size = max(int(dataset.BitsAllocated) // 8, 2)
        if size and element.value:
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()

    dataset.walk(swap)


def _plugin(syntax: str) -> str:
    """The decoder that is taken for certain, not whatever else is installed; pydicom's own for run lengths."""
    return LABEL if syntax in DECODER_DEPENDENCIES else ""


def register() -> None:
    """Makes the decoders known to pydicom in this process, and keeps pydicom, which quotes values, from telling anything;
    calling it again changes nothing."""
    from pydicom.pixels.decoders import base

    from medzip import pydicom_plugin

    quiet()
    pydicom_plugin.register()
    for uid in DECODER_DEPENDENCIES:
        decoder, _ = base._PIXEL_DATA_DECODERS[uid]  # type: ignore[index]  # a UID is a str
        if LABEL not in decoder._available:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))


def quiet() -> None:
    """No warnings and no log of pydicom and pynetdicom in this process: they hold values of headers."""
    warnings.simplefilter("ignore")
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def is_available(uid: str) -> bool:
    """For pydicom."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: Any) -> bytearray:
    """pydicom's decoding plugin: little endian words of BitsAllocated, colours by pixel, of one codestream.

    Raises ValueError where the codestream is of another size than the data set says.
    """
    samples = _samples(src, str(runner.transfer_syntax), runner)
    shape = (runner.rows, runner.columns, *((3,) if runner.samples_per_pixel == 3 else ()))
    bits = int(runner.bits_allocated)
    if samples.shape != shape or samples.dtype.kind not in "iu" or samples.dtype.itemsize * 8 > bits:
        raise ValueError(f"expected a codestream of {shape} and {bits} bits, found another")
    words = np.ascontiguousarray(samples.astype(f"<{samples.dtype.kind}{bits // 8}")).view(f"<u{bits // 8}")
    if runner.samples_per_pixel == 3:
        runner.set_option("planar_configuration", 0)
    shift = bits - int(runner.bits_stored)
    if runner.pixel_representation and shift and samples.dtype.kind == "u":
        words = ((words << shift).view(f"<i{bits // 8}") >> shift).view(words.dtype)
    return bytearray(words.tobytes())  # pydicom may write into it


def _samples(src: bytes, syntax: str, runner: Any) -> NDArray[Any]:
    import imagecodecs

    colours = runner.samples_per_pixel == 3
    if syntax in JPEG:
        if not colours:
            return np.asarray(imagecodecs.jpeg8_decode(src))
        space = "ycbcr" if str(runner.photometric_interpretation).startswith("YBR") else "rgb"
        if space == "ycbcr":  # subsampled colours were brought to full size
            runner.set_option("photometric_interpretation", "YBR_FULL")
        return np.asarray(imagecodecs.jpeg8_decode(src, colorspace=space, outcolorspace=space))
    if syntax in JPEG_LOSSLESS:
        return np.asarray(imagecodecs.ljpeg_decode(src))
    if syntax in JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(src))
    if str(runner.photometric_interpretation) in ("YBR_RCT", "YBR_ICT"):
        runner.set_option("photometric_interpretation", "RGB")
    decode = imagecodecs.jpeg2k_decode if syntax in JPEG_2000 else imagecodecs.htj2k_decode
    return np.asarray(decode(src))


UNCOMPRESSED = (EXPLICIT, IMPLICIT)
"""What is converted to, in the order of preference."""
