"""What queries ask of a DICOM instance, from its header. The file is a stranger's: what is read of it is bounded."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from medzip.errors import UnsupportedInputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BEHIND = 0x00410000
"""All keywords below are of groups up to 0040: what follows (functional groups, overlays, pixel data) is not read."""
INFLATED_LIMIT = 1 << 25
"""Bytes of a deflated data set in which its header has to lie."""
READ_LIMIT = 1 << 22
"""Bytes that are read of a header; values that nobody asked for are skipped."""
PREFIX_AT = 128
TEXT_LIMIT = 4096
"""Characters of a value that is kept for queries."""
UID = re.compile(r"[0-9.]{1,64}", re.ASCII)

PATIENT = ("PatientID", "PatientName", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime", "PatientSex")
STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription"),
    *("ReferringPhysicianName", "PatientAge", "PatientSize", "PatientWeight", "NameOfPhysiciansReadingStudy"),
)
SERIES = (
    *("SeriesInstanceUID", "SeriesNumber", "Modality", "SeriesDescription", "SeriesDate", "SeriesTime", "BodyPartExamined"),
    *("ProtocolName", "Laterality", "PatientPosition", "Manufacturer", "ManufacturerModelName", "StationName"),
    *("InstitutionName", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "OperatorsName"),
    *("PerformingPhysicianName", "FrameOfReferenceUID", "PerformedProcedureStepID"),
)
IMAGE = (
    *("SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime"),
    *("AcquisitionNumber", "ImageType", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "SliceLocation"),
)
LEVELS = {"PATIENT": PATIENT, "STUDY": STUDY, "SERIES": SERIES, "IMAGE": IMAGE}
"""Keywords that are kept of each level."""


@dataclass(frozen=True)
class Header:
    """`values` maps keywords to texts (several values are joined by a backslash); `syntax` is the transfer syntax."""

    syntax: str
    values: dict[str, str]

    @property
    def study(self) -> str:
        return self.values["StudyInstanceUID"]

    @property
    def series(self) -> str:
        return self.values["SeriesInstanceUID"]

    @property
    def instance(self) -> str:
        return self.values["SOPInstanceUID"]

    @property
    def sop_class(self) -> str:
        return self.values["SOPClassUID"]


def read(source: Path | BinaryIO) -> Header:
    """The header of a DICOM file. Raises UnsupportedInputError where it is none or lacks one of the UIDs; OSError."""
    wanted = ["SpecificCharacterSet", *(keyword for level in LEVELS.values() for keyword in level)]
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                syntax, dataset = _read(file, wanted)
        else:
            syntax, dataset = _read(source, wanted)
        values = {element.keyword: _text(element.value) for element in dataset if element.keyword in wanted[1:]}
    except UnsupportedInputError:
        raise
    except Exception as error:  # pydicom raises whatever a broken file makes it run into, OSError where it ends too early
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(f"one that pydicom cannot read ({type(error).__name__})") from None
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        if not UID.fullmatch(values.get(keyword, "")):
            raise _broken(f"one without a valid {keyword}")
    return Header(syntax, values)


def split(file: BinaryIO) -> tuple[Dataset, int]:
    """File meta information and where the data set begins (PS3.10 section 7.1). Raises UnsupportedInputError, and whatever
    pydicom raises."""
    from pydicom.filereader import read_dataset

    file.seek(PREFIX_AT)
    if file.read(4) != b"DICM":
        raise _broken("another file")
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    return meta, file.tell()


def _read(file: BinaryIO, wanted: list[str]) -> tuple[str, Dataset]:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    meta, begin = split(file)
    syntax = str(meta.TransferSyntaxUID)
    file.seek(begin)
    if syntax == DEFLATED:
        file = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), INFLATED_LIMIT))
    return syntax, read_dataset(
        cast(BinaryIO, _Bounded(file)),
        is_implicit_VR=syntax == IMPLICIT,
        is_little_endian=syntax != BIG_ENDIAN,
        stop_when=lambda tag, _vr, _length: tag >= BEHIND,
        specific_tags=[tag for keyword in wanted if (tag := tag_for_keyword(keyword)) is not None],
    )


class _Bounded:
    """A file of which no more than READ_LIMIT bytes are read: elements may be tiny and many."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, READ_LIMIT
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise _broken("one with a header without end")
        return data


def _text(value: Any) -> str:
    from pydicom.multival import MultiValue

    if value is None:
        return ""
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue | list) else str(value)
    return text.replace("\0", "").strip()[:TEXT_LIMIT]


def _broken(found: str) -> UnsupportedInputError:
    return UnsupportedInputError(f"expected a DICOM instance, found {found}")
