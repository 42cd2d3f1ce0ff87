"""One table: scans coded by every codec and by medzip, decoded again, compared, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from medzip.bench.codecs import JPEG_XL, TOMOZ, byte_codecs, voxel_codecs
from medzip.bench.measure import Measured, Scan, by_bytes, by_medzip, by_voxels, read_scans
from medzip.errors import ModelMissingError, UnsupportedInputError


@dataclass(frozen=True)
class Row:
    """What one codec made of the scans; None where there is no such figure, and `note` may say why.

    `bytes` count everything that is needed to restore the files: voxel codecs get the bytes of medzip's coded skeleton added.
    `bpsp` is 8 * bytes / stored samples, `ratio_to_jpeg_xl` compares bytes with those of lossless JPEG XL, effort 7.
    `encode_mb_s` and `decode_mb_s` are 10^6 bytes of raw voxels a second on one thread, verification not counted; medzip's
    count reading and writing files too and, where a process uses a model for the first time, loading it.
    """

    codec: str
    bytes: int | None = None
    bpsp: float | None = None
    ratio_to_jpeg_xl: float | None = None
    encode_mb_s: float | None = None
    decode_mb_s: float | None = None
    note: str = ""


def bench(path: Path, presets: Sequence[str] = ("default",), models: str = "open") -> list[Row]:
    """Measure every codec, and medzip with each of `presets` and `models` (as in `medzip.compress`), on a file or folder.

    Files without voxels that medzip codes (no scans, compressed DICOM) count in no row. A scan is held in memory whole.

    Raises UnsupportedInputError where there is nothing to measure, VerificationError where a codec does not decode the
    original, and what `medzip.compress` raises, but for a missing model: its row tells.
    """
    scans = read_scans(path)
    if not scans:
        raise UnsupportedInputError(f"{path}: expected voxels to code, found none; name a NIfTI, DICOM or .npy file, or a folder")
    measured = {"original": Measured(sum(len(data) for scan in scans for data in scan.files.values()))}
    measured |= {codec.name: by_bytes(codec, scans) for codec in byte_codecs()}
    measured |= {codec.name: by_voxels(codec, scans) for codec in voxel_codecs()}
    missing = {} if TOMOZ in measured else {TOMOZ: "not installed: pip install 'medzip[bench]'"}
    for preset in presets:
        try:
            measured[f"medzip {preset}"] = by_medzip(path, preset, models, scans)
        except ModelMissingError as error:
            missing[f"medzip {preset}"] = str(error)
    reference = measured[JPEG_XL].bytes
    rows = [_row(name, result, scans, reference) for name, result in measured.items()]
    return rows + [Row(name, note=reason) for name, reason in missing.items()]


def _row(name: str, result: Measured, scans: Sequence[Scan], reference: int) -> Row:
    samples = sum(scan.samples for scan in scans)
    megabytes = sum(volume.samples.nbytes for scan in scans for volume in scan.volumes) / 1e6
    return Row(
        codec=name,
        bytes=result.bytes,
        bpsp=8 * result.bytes / samples,
        ratio_to_jpeg_xl=result.bytes / reference,
        encode_mb_s=megabytes / result.encode_seconds if result.encode_seconds else None,
        decode_mb_s=megabytes / result.decode_seconds if result.decode_seconds else None,
        note=result.note,
    )


_HEADINGS = ("codec", "bytes", "bpsp", "/ JPEG XL", "encode MB/s", "decode MB/s", "note")
_FORMATS = ("", ",", ".3f", ".3f", ".3g", ".3g", "")


def render(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """The table as aligned text, or in Markdown."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    aligned = [
        [_align(text, width, column) for column, (text, width) in enumerate(zip(line, widths, strict=True))] for line in cells
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in aligned)
    ruler = [("-" * width if column in _WORDS else "-" * (width - 1) + ":") for column, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], ruler, *aligned[1:]])


_WORDS = (0, len(fields(Row)) - 1)
"""Columns of text, aligned to the left; all others are numbers."""


def _cells(row: Row) -> tuple[str, ...]:
    return tuple("-" if value is None else format(value, form) for value, form in zip(astuple(row), _FORMATS, strict=True))


def _align(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column in _WORDS else text.rjust(width)
