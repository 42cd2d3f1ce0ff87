"""Header elements of a file as rows of a table; what may tell of a person stays hidden unless it is asked for.

Hidden are values, not elements. Of DICOM (PS3.6) only numbers, code strings and a few named technical texts are shown, and
none of group 0010 or of private groups; of NIfTI and Analyze no text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from medzip.sources.dicom import DEFLATED, NOT_LOOKED_INTO, DicomSource, scan
from medzip.sources.nifti import NiftiSource

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LONGEST_HEADER = 1 << 22
MOST_ROWS = 2000
LONGEST_VALUE = 256
PATIENT_GROUP = 0x0010
IMPERSONAL_VRS = frozenset(("AT", "CS", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
TECHNICAL_TEXTS = frozenset(("ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "SequenceName"))
TECHNICAL_UIDS = frozenset(("MediaStorageSOPClassUID", "SOPClassUID", "TransferSyntaxUID"))
BINARY_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
UNREADABLE = "(unreadable)"


@dataclass(frozen=True)
class Row:
    """One element: `value` is None where it is hidden; `depth` counts the sequences around it."""

    tag: str
    name: str
    vr: str
    value: str | None
    depth: int = 0


@dataclass(frozen=True)
class Table:
    """`format` is 'DICOM', 'NIfTI', 'Analyze', or '' for a header that is not shown; `note` says what is missing, and why."""

    format: str
    rows: tuple[Row, ...] = ()
    note: str = ""


def table(start: bytes, show_patient: bool) -> Table:
    """The header at the start of a file, of which `start` is all that stands before its first voxel."""
    if len(start) > LONGEST_HEADER:
        return Table("", note=f"This header is not shown: it is longer than {LONGEST_HEADER >> 20} MiB.")
    if DicomSource().detect(start):
        return _dicom(start, show_patient)
    if NiftiSource().detect(start):
        return _nifti(start, show_patient)
    return Table("", note="Only headers of DICOM and NIfTI are shown.")


def _dicom(start: bytes, show_patient: bool) -> Table:
    import pydicom

    try:
        # The sizes of elements, and deflated data that pydicom would unpack whatever it becomes, are looked at first.
        syntax = scan(BytesIO(start), 1 << 40, "").transfer_syntax
        if syntax in {DEFLATED, *NOT_LOOKED_INTO}:
            return Table("DICOM", note="This header is not shown: it is deflated.")
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(BytesIO(start), stop_before_pixels=True, force=True)
            rows = [row for part in (dataset.file_meta, dataset) for row in _rows_of(part, show_patient)]
    except Exception:  # pydicom has no error of its own for the many ways in which headers are broken
        rows = []
    note = "" if rows else "This header breaks the rules of DICOM."
    if len(rows) > MOST_ROWS:
        note = f"Only the first {MOST_ROWS} of {len(rows)} elements are shown."
    return Table("DICOM", tuple(rows[:MOST_ROWS]), note)


def _rows_of(dataset: Dataset, show_patient: bool, depth: int = 0) -> Iterator[Row]:
    for tag in sorted(dataset.keys()):
        label = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        try:
            element = dataset[tag]
        except Exception:  # as above, for one element
            yield Row(label, "", "", UNREADABLE, depth)
            continue
        private = tag >> 16 & 1 == 1
        impersonal = not private and tag >> 16 != PATIENT_GROUP
        name = "Private element" if private else element.name
        if element.VR == "SQ":
            shown = show_patient or impersonal
            yield Row(label, name, "SQ", f"{len(element.value)} items" if shown else None, depth)
            for item in element.value if shown else ():
                yield from _rows_of(item, show_patient, depth + 1)
        else:
            shown = show_patient or (
                impersonal and (element.VR in IMPERSONAL_VRS or element.keyword in TECHNICAL_TEXTS | TECHNICAL_UIDS)
            )
            yield Row(label, name, element.VR, _text(element.value, element.VR) if shown else None, depth)


def _text(value: Any, vr: str) -> str:
    if vr in BINARY_VRS and isinstance(value, bytes):
        return f"{len(value)} bytes"
    if vr == "UI" and hasattr(value, "name"):  # one that the standard names
        return printable(value.name)
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__") and vr != "PN"
    return printable("\\".join(map(str, value)) if several else "" if value is None else str(value))


def printable(text: str) -> str:
    """At most LONGEST_VALUE characters, none of which could change how others look."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text[:LONGEST_VALUE])
    return shown + ("…" if len(text) > LONGEST_VALUE else "")


def _nifti(start: bytes, show_patient: bool) -> Table:
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    sizes = struct.unpack_from("<i", start)[0], struct.unpack_from(">i", start)[0]
    kind: type[AnalyzeHeader] = AnalyzeHeader
    if 540 in sizes:
        kind = Nifti2Header
    elif start[344:348] in (b"n+1\0", b"ni1\0"):
        kind = Nifti1Header
    header = kind(start[: kind.template_dtype.itemsize], "<" if sizes[0] in (348, 540) else ">", check=False)
    rows = []
    for name in kind.template_dtype.names or ():
        value = header[name]
        personal = value.dtype.kind == "S" and name != "magic"
        text = None if personal and not show_patient else _nifti_text(value)
        rows.append(Row("", name, value.dtype.str[1:], text))
    return Table("Analyze" if kind is AnalyzeHeader else "NIfTI", tuple(rows))


def _nifti_text(value: Any) -> str:
    if value.dtype.kind == "S":
        return printable(b" ".join(value.reshape(-1).tolist()).decode("utf-8", "replace").rstrip("\0"))
    return printable(" ".join(f"{number:g}" if value.dtype.kind == "f" else str(number) for number in value.reshape(-1).tolist()))
