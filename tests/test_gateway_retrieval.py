"""`medzip gateway` gives back what it has archived: C-FIND, C-GET and C-MOVE, stored bytes where the peer takes them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

import imagecodecs
from gateways import CLASS, archived, calling, configuration, data_set, encoded, instance, running, wait
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from medzip.gateway.index import Instance
from medzip.gateway.matching import fits
from medzip.gateway.retrieval import Retriever
from medzip.gateway.service import Gateway

FIND, GET, MOVE = (
    str(uid)
    for uid in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    )
)
SERIES = [instance(number) for number in range(4)]
OTHER = [
    instance(number, study="1.2.9", series="1.2.9.1", StudyDate="20250101", PatientName="Doe^John", PatientID="P-2")
    for number in range(2)
]


def compressed(dataset: Dataset) -> Dataset:
    """The same in JPEG-LS."""
    words = np.frombuffer(dataset.PixelData, "u2").reshape(dataset.Rows, dataset.Columns)
    dataset.PixelData = encapsulate([imagecodecs.jpegls_encode(words)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    return dataset


PACKED = [compressed(instance(number, series="1.2.3.5", SeriesDescription="packed")) for number in range(2)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Three series in archives, and a late slice of one of them in the spool."""
    folder = tmp_path_factory.mktemp("gateway")
    peers = ["[dicom]", "port = 0", "[[peers]]", "ae_title = 'TESTER'", "[[peers]]", "ae_title = 'SINK'", "host = '127.0.0.1'"]
    sink = AE("SINK")
    sink.add_supported_context(CLASS, [ExplicitVRLittleEndian, JPEGLSLossless])
    server = sink.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, received)])
    assert server is not None
    peers.append(f"port = {server.socket.getsockname()[1]}")
    options = configuration(folder, *peers)
    with running(options) as started:
        with calling(started) as peer:
            assert all(peer.send_c_store(one).Status == 0 for one in [*SERIES[:3], *OTHER])
        with calling(started, syntaxes=[JPEGLSLossless]) as peer:
            assert all(peer.send_c_store(one).Status == 0 for one in PACKED)
        wait(archived(started))
    with running(configuration(folder, *peers, quiet_seconds=600)) as started:
        with calling(started) as peer:
            assert peer.send_c_store(SERIES[3]).Status == 0
        yield started
    server.shutdown()


RECEIVED: dict[str, bytes] = {}


def received(event: evt.Event) -> int:
    RECEIVED[str(event.request.AffectedSOPInstanceUID)] = event.dataset_path.read_bytes()
    return 0


def asked(gateway: Gateway, level: str, model: str = FIND, charset: str = "", **keys: object) -> list[Dataset]:
    identifier = Dataset()
    if charset:
        identifier.SpecificCharacterSet = charset
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    with calling(gateway, model) as peer:
        answers = list(peer.send_c_find(identifier, model))
    assert answers[-1][0].Status == 0 and all(status.Status == 0xFF00 for status, _ in answers[:-1])
    return [found for _, found in answers[:-1] if found is not None]


def got(gateway: Gateway, syntaxes: list[UID], **keys: str) -> tuple[dict[str, bytes], Dataset]:
    """What C-GET brings, and its last status."""
    found: dict[str, bytes] = {}

    def keep(event: evt.Event) -> int:
        found[str(event.request.AffectedSOPInstanceUID)] = event.dataset_path.read_bytes()
        return 0

    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    assert gateway.listener is not None
    entity = AE("TESTER")
    entity.add_requested_context(GET, ExplicitVRLittleEndian)
    for syntax in syntaxes:
        entity.add_requested_context(CLASS, syntax)
    peer = entity.associate(
        "127.0.0.1", gateway.listener.port, ext_neg=[build_role(CLASS, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    *_, (status, _) = peer.send_c_get(identifier, GET)
    peer.release()
    return found, status


def test_a_series_comes_back_as_it_was_stored_from_archive_and_spool(gateway: Gateway) -> None:
    found, status = got(
        gateway, [ExplicitVRLittleEndian], QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4"
    )
    assert (status.Status, status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations) == (0, 4, 0)
    assert {uid: data_set(file) for uid, file in found.items()} == {one.SOPInstanceUID: encoded(one) for one in SERIES}


def test_compressed_instances_come_back_compressed_or_decoded_as_the_peer_takes_them(gateway: Gateway) -> None:
    keys = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.5"}
    found, _ = got(gateway, [JPEGLSLossless, ExplicitVRLittleEndian], **keys)
    assert {uid: data_set(file) for uid, file in found.items()} == {one.SOPInstanceUID: encoded(one) for one in PACKED}
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        found, status = got(gateway, [syntax], **keys)
        assert status.Status == 0
        for number, file in enumerate(found[uid] for uid in sorted(found)):
            back, plain = dcmread(io.BytesIO(file)), instance(number, series="1.2.3.5", SeriesDescription="packed")
            assert back.file_meta.TransferSyntaxUID == syntax and back.PixelData == plain.PixelData
            assert back.SOPInstanceUID == plain.SOPInstanceUID and back.PatientName == plain.PatientName


def test_a_study_is_moved_to_a_configured_peer_and_to_no_other(gateway: Gateway) -> None:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "1.2.3"
    RECEIVED.clear()
    with calling(gateway, MOVE) as peer:
        statuses = [status for status, _ in peer.send_c_move(identifier, "SINK", MOVE)]
        assert [status.Status for status in statuses] == [0xFF00] * 6 + [0]
        assert set(RECEIVED) == {one.SOPInstanceUID for one in [*SERIES, *PACKED]}
        assert [status.Status for status, _ in peer.send_c_move(identifier, "ELSEWHERE", MOVE)] == [0xA801]
    assert data_set(RECEIVED["1.2.3.4.0"]) == encoded(SERIES[0])
    assert data_set(RECEIVED["1.2.3.5.0"]) == encoded(PACKED[0])


def test_a_peer_hears_that_it_goes_on_while_an_archive_is_decoded(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    restoring = Retriever.files

    def slow(self: Retriever, wanted: list[Instance], idle: Callable[[], None]) -> Iterator[tuple[Instance, Path | None]]:
        for _ in range(5):
            time.sleep(0.1)
            idle()
        yield from restoring(self, wanted, idle)

    monkeypatch.setattr("medzip.gateway.query_retrieve.SECONDS_BETWEEN_PENDING", 0.15)
    monkeypatch.setattr(Retriever, "files", slow)
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "1.2.3"
    with calling(gateway, MOVE) as peer:
        statuses = [status for status, _ in peer.send_c_move(identifier, "SINK", MOVE)]
    told = [(one.Status, one.NumberOfCompletedSuboperations) for one in statuses]
    assert told.count((0xFF00, 0)) >= 2 and told[-2:] == [(0xFF00, 6), (0, 6)]


@pytest.mark.parametrize(
    ("level", "keys", "found"),
    [
        ("STUDY", {"PatientName": "mül*"}, ["1.2.3"]),
        ("STUDY", {"PatientName": "DOE^J?hn"}, ["1.2.9"]),
        ("STUDY", {"StudyDate": "20260101-"}, ["1.2.3"]),
        ("STUDY", {"StudyDate": "-20251231"}, ["1.2.9"]),
        ("STUDY", {"StudyDate": "20250101-20260317"}, ["1.2.3", "1.2.9"]),
        ("STUDY", {"StudyDate": "20260318-20260401"}, []),
        ("STUDY", {"StudyTime": "1000-1015"}, ["1.2.3", "1.2.9"]),
        ("STUDY", {"StudyTime": "1016-"}, []),
        ("STUDY", {"StudyInstanceUID": ["1.2.3", "1.2.9", "1.2.10"]}, ["1.2.3", "1.2.9"]),
        ("STUDY", {"PatientID": "P-?", "ModalitiesInStudy": "CT"}, ["1.2.3", "1.2.9"]),
        ("STUDY", {"ModalitiesInStudy": "MR"}, []),
        ("STUDY", {"AccessionNumber": "A77", "PatientID": "P-2"}, ["1.2.9"]),
        ("STUDY", {"StudyDescription": "abdomen"}, []),
    ],
)
def test_queries_find_what_fits_and_nothing_else(gateway: Gateway, level: str, keys: dict[str, object], found: list[str]) -> None:
    answers = asked(gateway, level, charset="ISO_IR 192", **{"StudyInstanceUID": "", **keys})
    assert sorted(answer.StudyInstanceUID for answer in answers) == found


def test_queries_answer_in_unicode_count_and_leave_out_what_is_not_known(gateway: Gateway) -> None:
    wanted = {
        "StudyInstanceUID": "1.2.3",
        "NumberOfStudyRelatedInstances": "",
        "NumberOfStudyRelatedSeries": "",
        "PatientName": "",
    }
    [study] = asked(gateway, "STUDY", ModalitiesInStudy="", PatientComments="x", **wanted)
    assert (study.PatientName, study.SpecificCharacterSet, study.ModalitiesInStudy) == ("Müller^Jane", "ISO_IR 192", "CT")
    assert (study.NumberOfStudyRelatedInstances, study.NumberOfStudyRelatedSeries, study.PatientComments) == (6, 2, "")
    assert (study.RetrieveAETitle, study.QueryRetrieveLevel) == ("MEDZIP", "STUDY")
    series = asked(gateway, "SERIES", StudyInstanceUID="1.2.3", SeriesInstanceUID="", NumberOfSeriesRelatedInstances="")
    assert {one.SeriesInstanceUID: one.NumberOfSeriesRelatedInstances for one in series} == {"1.2.3.4": 4, "1.2.3.5": 2}
    images = asked(gateway, "IMAGE", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", SOPInstanceUID="", InstanceNumber="2")
    assert [one.SOPInstanceUID for one in images] == ["1.2.3.4.2"]
    model = str(PatientRootQueryRetrieveInformationModelFind)
    patients = asked(gateway, "PATIENT", model, PatientID="", PatientName="", NumberOfPatientRelatedStudies="")
    assert [(one.PatientID, one.NumberOfPatientRelatedStudies) for one in patients] == [("P-1", 1), ("P-2", 1)]


def test_a_name_in_another_character_set_is_found(gateway: Gateway) -> None:
    assert len(asked(gateway, "STUDY", charset="ISO_IR 100", StudyInstanceUID="", PatientName="Müller*")) == 1


def test_an_archive_that_is_gone_fails_its_instances_and_no_other(gateway: Gateway) -> None:
    [one] = gateway.index.instances("uid = ?", ["1.2.9.1.0"])
    assert one.archive is not None
    archive = gateway.store.archive(one.archive)
    data = archive.read_bytes()
    archive.write_bytes(data[:-200])
    try:
        found, status = got(gateway, [ExplicitVRLittleEndian], QueryRetrieveLevel="STUDY", StudyInstanceUID=["1.2.9", "1.2.3"])
    finally:
        archive.write_bytes(data)
    assert (status.Status, status.NumberOfFailedSuboperations) == (0xB000, 2)
    assert set(found) == {one.SOPInstanceUID for one in [*SERIES, *PACKED]}


@pytest.mark.parametrize(
    ("keyword", "pattern", "value", "good"),
    [
        ("StudyDate", "20260317", "2026.03.17", True),
        ("StudyTime", "101500", "10:15:00", True),
        ("StudyTime", "101500", "101500.250", False),
        ("StudyTime", "101500-101500", "101500.250", True),
        ("PatientName", "yamada*", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "Doe^John^^", "Doe^John", True),
        ("PatientName", "Do.*", "Doe^John", False),
        ("SeriesNumber", "4", "04", True),
        ("ImageType", "AXIAL", "ORIGINAL\\PRIMARY\\AXIAL", True),
        ("StudyID", "*", "", True),
        ("StudyID", "?", "", False),
    ],
)
def test_values_fit_as_the_standard_says(keyword: str, pattern: str, value: str, good: bool) -> None:
    assert fits(keyword, pattern, value) == good
