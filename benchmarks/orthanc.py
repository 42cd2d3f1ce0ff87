"""Orthanc sends to `medzip gateway`, forgets, and gets everything back: counts, times, and every data set compared.

    python -m benchmarks.orthanc --instances 1000 --slices 100 --size 256 --preset default
    python -m benchmarks.orthanc --data FOLDER

Needs Orthanc (Debian: apt-get install orthanc) and medzip with its extra `gateway`. Everything runs on 127.0.0.1, in a temporary
folder. Data sets are compared element by element with what was given to Orthanc, and byte by byte with what it had stored.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
SECONDS = 3600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000, metavar="N", help="made-up CT slices (default: 1000)")
    parser.add_argument("--slices", type=int, default=100, metavar="N", help="slices per series (default: 100)")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="rows and columns (default: 256)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="DICOM files instead of made-up ones")
    parser.add_argument("--preset", default="default", help="medzip's preset (default: default)")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (default: 1)")
    arguments = parser.parse_args()
    files = (
        list(given(arguments.data)) if arguments.data else list(made_up(arguments.instances, arguments.slices, arguments.size))
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        report = round_trip(Path(folder), files, arguments.preset, arguments.jobs, stack)
    print(json.dumps(report, indent=1))
    return 0 if report["equal"] == report["bytes_equal"] == len(files) else 1


def round_trip(folder: Path, files: list[bytes], preset: str, jobs: int, stack: ExitStack) -> dict[str, Any]:
    """Counts and seconds of each step."""
    dicom, http, port = free_port(), free_port(), free_port()
    report: dict[str, Any] = {"instances": len(files), "bytes": sum(map(len, files)), "preset": preset}
    gateway = stack.enter_context(running_gateway(folder, port, dicom, preset, jobs))
    orthanc = Orthanc(f"http://127.0.0.1:{http}")
    stack.enter_context(running_orthanc(folder, orthanc, http, dicom, port))
    with timed(report, "orthanc_takes"):
        for file in files:
            orthanc.post("/instances", file)
    before = orthanc.files()
    with timed(report, "orthanc_sends"):
        orthanc.job("/modalities/gateway/store", {"Resources": orthanc.get("/studies"), "Synchronous": False})
    with timed(report, "archived"):
        wait(lambda: spooled(folder / "spool") == 0)
    archives = list((folder / "store").rglob("*.mdz"))
    report |= {"archives": len(archives), "archive_bytes": sum(path.stat().st_size for path in archives)}
    for study in orthanc.get("/studies"):
        orthanc.delete(f"/studies/{study}")
    assert orthanc.get("/statistics")["CountInstances"] == 0
    with timed(report, "orthanc_gets_back"):
        found = orthanc.post("/modalities/gateway/query", json.dumps({"Level": "Study", "Query": {}}).encode())
        report["studies_found"] = len(orthanc.get(f"/queries/{found['ID']}/answers"))
        orthanc.job(f"/queries/{found['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": False})
        wait(lambda: orthanc.get("/statistics")["CountInstances"] >= len(before))
    after = orthanc.files()
    report["back"] = len(after)
    given_files = {uid_of(file): file for file in files}
    report["equal"] = sum(same(given_files[uid], after[uid]) for uid in given_files.keys() & after.keys())
    report["bytes_equal"] = sum(data_set(before[uid]) == data_set(after[uid]) for uid in before.keys() & after.keys())
    assert gateway.poll() is None
    return report


class Orthanc:
    """Its REST interface."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        return json.loads(self._call("GET", path))

    def post(self, path: str, data: bytes) -> Any:
        return json.loads(self._call("POST", path, data))

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def files(self) -> dict[str, bytes]:
        """All instances by their SOP Instance UID, as they are stored."""
        found = (self._call("GET", f"/instances/{one}/file") for one in self.get("/instances"))
        return {uid_of(file): file for file in found}

    def job(self, path: str, options: dict[str, Any]) -> None:
        """Starts a job and waits for its end."""
        number = self.post(path, json.dumps(options).encode())["ID"]
        wait(lambda: self.get(f"/jobs/{number}")["State"] in ("Success", "Failure"))
        ended = self.get(f"/jobs/{number}")
        assert ended["State"] == "Success", ended

    def _call(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self._url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return bytes(answer.read())


@contextmanager
def running_orthanc(folder: Path, orthanc: Orthanc, http: int, dicom: int, gateway: int) -> Iterator[None]:
    options = {
        "Name": "round trip",
        "StorageDirectory": f"{folder}/orthanc",
        "IndexDirectory": f"{folder}/orthanc",
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "DicomModalities": {"gateway": ["MEDZIP", "127.0.0.1", gateway]},
        "DicomAlwaysAllowStore": True,
        "DicomScuTimeout": 120,
        "Plugins": [],
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(options))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, str(path)], stdout=log, stderr=log)
        try:
            wait(lambda: answers(lambda: orthanc.get("/system")), 60)
            yield
        finally:
            process.terminate()
            process.wait()


@contextmanager
def running_gateway(folder: Path, port: int, orthanc: int, preset: str, jobs: int) -> Iterator[subprocess.Popen[str]]:
    path = folder / "gateway.toml"
    path.write_text(
        f"[archive]\nstore = '{folder}/store'\nspool = '{folder}/spool'\npreset = '{preset}'\njobs = {jobs}\n"
        "quiet_seconds = 3\nminimum_free_bytes = 0\n"
        f"[dicom]\nport = {port}\n[[peers]]\nae_title = 'ORTHANC'\nhost = '127.0.0.1'\nport = {orthanc}\n"
    )
    process = subprocess.Popen([sys.executable, "-m", "medzip", "gateway", str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("ready")
        yield process
    finally:
        process.terminate()
        process.wait()


def made_up(count: int, slices: int, size: int) -> Iterator[bytes]:
    """CT slices of a phantom with noise, in series of so many slices, two series to a study."""
    noise = np.random.default_rng(11)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    study = series = frame = generate_uid()
    for number in range(count):
        place = number % slices
        if place == 0:
            study = study if number // slices % 2 else generate_uid()
            series, frame = generate_uid(), generate_uid()
        made = Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.SpecificCharacterSet, made.PatientName, made.PatientID = "ISO_IR 100", "Phantom^Zoë", f"P{number // slices // 2}"
        made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID = study, series, generate_uid()
        made.SOPClassUID, made.Modality, made.StudyDate, made.StudyTime = CTImageStorage, "CT", "20260317", "101500"
        made.StudyID, made.AccessionNumber, made.FrameOfReferenceUID = "1", "A1", frame
        made.SeriesNumber, made.InstanceNumber = number // slices, place + 1
        made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 2 * place], [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness = [0.7, 0.7], 2
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
        made.Rows, made.Columns, made.BitsAllocated, made.BitsStored, made.HighBit = size, size, 16, 16, 15
        made.RescaleSlope, made.RescaleIntercept = 1, -1024
        body = 1000.0 * (rows**2 + columns**2 < 0.16) + 300 * (rows**2 + (columns - place / slices / 4) ** 2 < 0.02)
        made.PixelData = (body + noise.normal(0, 12, body.shape)).astype("<i2").tobytes()
        yield written(made)


def given(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            yield path.read_bytes()


def written(dataset: Dataset) -> bytes:
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def spooled(spool: Path) -> int:
    """Instances that the gateway still holds besides the archives."""
    return sum(name.endswith(".dcm") for part in ("incoming", "closed") for *_, names in os.walk(spool / part) for name in names)


def uid_of(file: bytes) -> str:
    return str(pydicom.dcmread(io.BytesIO(file), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def same(one: bytes, other: bytes) -> bool:
    """Whether two files have the same elements, transfer syntax included."""
    first, second = pydicom.dcmread(io.BytesIO(one)), pydicom.dcmread(io.BytesIO(other))
    return bool(first == second) and first.file_meta.TransferSyntaxUID == second.file_meta.TransferSyntaxUID


def data_set(file: bytes) -> bytes:
    """What follows the file meta information, whose group length comes first."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(call: Callable[[], Any]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def wait(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.1)


@contextmanager
def timed(report: dict[str, Any], step: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    report[f"seconds_{step}"] = round(time.monotonic() - began, 2)


if __name__ == "__main__":
    sys.exit(main())
