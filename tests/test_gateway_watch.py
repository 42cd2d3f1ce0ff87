"""`medzip gateway`: the watch folder, and Storage Commitment."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

from gateways import archived, calling, configuration, data_set, encoded, instance, running, wait
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from medzip.errors import StorageError
from medzip.gateway.commitment import WELL_KNOWN
from medzip.gateway.service import Gateway

PUSH = str(StorageCommitmentPushModel)
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def file_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_files_are_taken_once_they_are_stable_and_others_are_put_aside(tmp_path: Path) -> None:
    folder, poison = tmp_path / "in", tmp_path / "poison"
    watched = ("[watch]", f"folder = '{folder}'", f"poison = '{poison}'", "stable_seconds = 1")
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(file_of(instance(5)))
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "one.dcm").write_bytes(file_of(instance(1)))
    (folder / "Doe_Jane.txt").write_bytes(b"no DICOM")
    (folder / "link.dcm").symlink_to(outside)
    growing = file_of(instance(2))
    with running(configuration(tmp_path, *watched, quiet_seconds=600)) as gateway:
        with (folder / "growing.dcm").open("wb") as file:
            for place in range(0, len(growing), len(growing) // 5):
                file.write(growing[place : place + len(growing) // 5])
                file.flush()
                time.sleep(0.4)
        wait(lambda: gateway.metrics.value("watch_taken_total") == 2)
        wait(lambda: gateway.metrics.value("watch_poisoned_total") == 1)
        assert {one.uid for one in gateway.index.instances("1", ())} == {"1.2.3.4.1", "1.2.3.4.2"}
        kept = sorted(data_set(path.read_bytes()) for name in gateway.spool.names() if (path := gateway.spool.find(name)))
        assert kept == sorted(map(encoded, (instance(1), instance(2))))
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["link.dcm"] and outside.exists()
    assert [path.read_bytes() for path in poison.iterdir()] == [b"no DICOM"]


def test_a_full_disk_leaves_the_files_where_they_are(tmp_path: Path) -> None:
    watched = ("[watch]", f"folder = '{tmp_path}/in'", f"poison = '{tmp_path}/poison'", "stable_seconds = 0")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.dcm").write_bytes(file_of(instance(1)))
    with running(configuration(tmp_path, *watched, minimum_free_bytes=1 << 59)) as gateway:
        assert gateway.watch is not None and not gateway.is_ready() and gateway.is_healthy()
        gateway.watch.look()
        gateway.watch.look()
    assert (tmp_path / "in" / "one.dcm").exists() and not list((tmp_path / "poison").iterdir())


def test_a_second_gateway_is_kept_out_of_the_spool(tmp_path: Path) -> None:
    options = configuration(tmp_path)
    with running(options), pytest.raises(StorageError, match="found another gateway at work"):
        Gateway(options)
    with running(options):
        pass


class Sink:
    """A peer that hears results, and takes none at first."""

    def __init__(self) -> None:
        self.results: list[tuple[int, Dataset]] = []
        self.refuse = True
        self.asked = 0
        self.entity = AE("SINK")
        self.entity.add_supported_context(PUSH, scu_role=False, scp_role=True)
        self.entity.add_supported_context(Verification)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._heard)]
        self.server = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]

    @property
    def port(self) -> int:
        assert self.server is not None and self.server.socket is not None
        return int(self.server.socket.getsockname()[1])

    def _heard(self, event: evt.Event) -> tuple[int, None]:
        self.asked += 1
        if self.refuse:
            return 0x0110, None
        assert event.event_type is not None
        self.results.append((event.event_type, event.event_information))
        return 0x0000, None


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    assert made.server is not None
    made.server.shutdown()


def asking(gateway: Gateway, title: str, references: list[tuple[str, str]]) -> int:
    information = Dataset()
    information.TransactionUID = "1.2.77"
    information.ReferencedSOPSequence = []
    for sop_class, uid in references:
        one = Dataset()
        one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = sop_class, uid
        information.ReferencedSOPSequence.append(one)
    with calling(gateway, PUSH, title=title, syntaxes=[ExplicitVRLittleEndian]) as peer:
        status, _ = peer.send_n_action(information, 1, PUSH, WELL_KNOWN)
    return int(status.Status)


def test_commitments_wait_for_the_archive_survive_a_restart_and_are_told_until_they_are_heard(
    tmp_path: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medzip.gateway.commitment.SECONDS_BEFORE_RETRY", 0.2)
    peers = ("[dicom]", "port = 0", "[[peers]]", "ae_title = 'SINK'", "host = '127.0.0.1'", f"port = {sink.port}")
    peers += ("[[peers]]", "ae_title = 'MUTE'")
    asked = [(CT, "1.2.3.4.1"), (MR, "1.2.3.4.1"), (CT, "1.2.9")]
    with running(configuration(tmp_path, *peers, quiet_seconds=600)) as gateway:
        with calling(gateway, title="SINK") as peer:
            assert peer.send_c_store(instance(1)).Status == 0
        assert asking(gateway, "MUTE", asked) == 0x0124
        assert asking(gateway, "SINK", [(CT, "1.2/3")]) == 0x0115
        assert asking(gateway, "SINK", asked) == 0
        assert gateway.commitments is not None and gateway.commitments.waiting() == 1
        time.sleep(2)
        assert sink.asked == 0, "told of an instance that no archive holds"
    with running(configuration(tmp_path, *peers)) as gateway:
        assert gateway.commitments is not None
        wait(lambda: sink.asked >= 2)
        assert archived(gateway)()
        sink.refuse = False
        wait(lambda: sink.results)
        wait(lambda: gateway.commitments and gateway.commitments.waiting() == 0)
    [(kind, result)] = sink.results
    assert (kind, result.TransactionUID) == (2, "1.2.77")
    assert [one.ReferencedSOPInstanceUID for one in result.ReferencedSOPSequence] == ["1.2.3.4.1"]
    failed = [(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID, one.FailureReason) for one in result.FailedSOPSequence]
    assert failed == [(MR, "1.2.3.4.1", 0x0119), (CT, "1.2.9", 0x0112)]


def test_a_damaged_archive_is_not_committed(tmp_path: Path, sink: Sink) -> None:
    sink.refuse = False
    peers = ("[dicom]", "port = 0", "[[peers]]", "ae_title = 'SINK'", "host = '127.0.0.1'", f"port = {sink.port}")
    with running(configuration(tmp_path, *peers)) as gateway:
        with calling(gateway, title="SINK") as peer:
            assert peer.send_c_store(instance(1)).Status == 0
        wait(archived(gateway))
        next((tmp_path / "store").rglob("*.mdz")).unlink()
        assert asking(gateway, "SINK", [(CT, "1.2.3.4.1")]) == 0
        wait(lambda: sink.results)
    assert [one.FailureReason for one in sink.results[0][1].FailedSOPSequence] == [0x0110]
