"""medzip export: the DICOM files of an archive in a transfer syntax that a PACS takes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from medzip.cli.common import Commands, Console, Parser, add_command, add_overwrite, for_each

_DESCRIPTION = """\
Write the DICOM files of an archive with lossless JPEG XL frames (transfer syntax 1.2.840.10008.1.2.4.110), under their
names and with their SOP Instance UIDs. Each file is decoded and compared before it gets its name. A file with pixel data
that this is not for is written as it was. To have the original files back, use `medzip decompress`."""


def register(commands: Commands[Parser]) -> None:
    parser = add_command(
        commands,
        "export",
        run,
        summary="write DICOM files in JPEG XL",
        description=_DESCRIPTION,
        examples=("medzip export series.mdz pacs --transfer-syntax jxl    pacs/IM0001.dcm ... in JPEG XL lossless",),
    )
    parser.add_argument("archive", type=Path, metavar="ARC", help="archive, or folder of archives")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to write into, made if need be")
    parser.add_argument("--transfer-syntax", choices=("jxl",), required=True, help="how pixel data is to be compressed")
    add_overwrite(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    from medzip import dicom_export

    def work(archive: Path) -> int:
        with console.progress(archive) as progress:
            files = dicom_export.export(
                archive,
                arguments.folder,
                transfer_syntax=arguments.transfer_syntax,
                overwrite=arguments.overwrite,
                progress=progress,
            )
        coded = [file for file in files if file.changes]
        record = {"archive": str(archive), "folder": str(arguments.folder), "files": [asdict(file) for file in files]}
        size = sum(file.bytes for file in files)
        console.result(
            record,
            f"{archive} -> {arguments.folder}  {len(files)} files, {len(coded)} of them in JPEG XL, {size:,} bytes",
        )
        for change in dict.fromkeys(change for file in coded for change in file.changes):
            console.note(f"changed in {sum(change in file.changes for file in coded)} files: {change}")
        console.note("SOP Instance UIDs are kept: the compression is lossless" if coded else "")
        for file in files:
            if file.reason:
                console.warn(f"{file.file}: written as it was: {file.reason}")
        return 0

    return for_each([arguments.archive], work, console)
