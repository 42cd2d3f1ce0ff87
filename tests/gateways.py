"""Small made-up DICOM, a gateway in this process, and peers made of pynetdicom, for the tests of `medzip gateway`."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import CTImageStorage, Verification

from medzip.gateway import config
from medzip.gateway.service import Gateway

CLASS = str(CTImageStorage)


def instance(number: int, *, series: str = "1.2.3.4", study: str = "1.2.3", seed: int = 0, **values: object) -> Dataset:
    """A CT slice of 8 x 9 samples with a patient's name."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    made.PatientName, made.PatientID, made.PatientBirthDate = "Müller^Jane", "P-1", "19700102"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID = study, series, f"{series}.{number}"
    made.SOPClassUID, made.Modality = CLASS, "CT"
    made.StudyDate, made.StudyTime, made.AccessionNumber, made.StudyDescription = "20260317", "101500", "A77", "Abdomen"
    made.SeriesNumber, made.InstanceNumber = 4, number
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
    made.Rows, made.Columns, made.BitsAllocated, made.BitsStored, made.HighBit = 8, 9, 16, 16, 15
    samples = np.random.default_rng(seed * 1000 + number).integers(-1000, 1000, (8, 9), "i2")
    made.PixelData = samples.tobytes()
    made.add_new(0x00091001, "LO", "private")
    for keyword, value in values.items():
        setattr(made, keyword, value)
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    return made


def encoded(dataset: Dataset) -> bytes:
    """The data set alone, as it is stored."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return data_set(buffer.getvalue())


def data_set(file: bytes) -> bytes:
    """What follows the file meta information."""
    assert file[128:138] == b"DICM\x02\x00\x00\x00UL"
    return file[144 + int.from_bytes(file[140:144], "little") :]


def configuration(folder: Path, *more: str, **archive: object) -> config.Config:
    """A configuration file in `folder`, with a DICOM listener at any free port, read."""
    values = {"store": f"{folder}/store", "spool": f"{folder}/spool", "preset": "parametric", "quiet_seconds": 0.2}
    values |= {"minimum_free_bytes": 0} | archive
    lines = ["[archive]", *(f"{key} = {value!r}".replace("True", "true") for key, value in values.items())]
    text = "\n".join([*lines, *(more or ("[dicom]\nport = 0",))])
    path = folder / "gateway.toml"
    path.write_text(text)
    return config.load(path)


@contextmanager
def running(options: config.Config) -> Iterator[Gateway]:
    gateway = Gateway(options)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.end()


@contextmanager
def calling(
    gateway: Gateway | int, *classes: str, title: str = "TESTER", syntaxes: list[str] | None = None
) -> Iterator[Association]:
    """An association with a gateway, or with one at a port."""
    port = gateway if isinstance(gateway, int) else gateway.listener.port  # type: ignore[union-attr]  # it has one
    entity = AE(title)
    for uid in classes or (CLASS, str(Verification)):
        entity.add_requested_context(uid, syntaxes or [ExplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", port)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def sent_as(peer: Association, dataset: Dataset, uid: str) -> int:
    """The status of a C-STORE that announces another SOP Instance UID than that of the data set."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CLASS, uid
    request.DataSet = io.BytesIO(encoded(dataset))
    peer._reactor_checkpoint.clear()
    while not peer._is_paused:
        time.sleep(0.001)
    peer.dimse.send_msg(request, peer.accepted_contexts[0].context_id)
    _, response = peer.dimse.get_msg(block=True)
    peer._reactor_checkpoint.set()
    return int(response.Status)


def serve(path: str) -> None:
    """A gateway until this process is killed; prints its port."""
    gateway = Gateway(config.load(Path(path)))
    gateway.start()
    assert gateway.listener is not None
    print(gateway.listener.port, flush=True)
    time.sleep(600)


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def archived(gateway: Gateway) -> Callable[[], bool]:
    """Whether nothing is left in the spool."""
    return lambda: not gateway.spool.names()


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path)
