"""`medzip gateway`: what was acknowledged is archived, byte for byte, whatever was killed when."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

from archived_trees import ENVIRONMENT, events, query
from gateways import archived, calling, configuration, data_set, encoded, instance, running, sent_as, wait
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom.sop_class import Verification

from medzip.cli import main
from medzip.errors import UnsupportedInputError
from medzip.gateway import headers


def restored(folder: Path) -> dict[str, bytes]:
    assert main(["restore", str(folder / "store"), str(folder / "back"), "--quiet"]) == 0
    found = {path.name: data_set(path.read_bytes()) for path in (folder / "back").rglob("*.dcm")}
    shutil.rmtree(folder / "back")
    return found


def test_an_echo_is_answered(tmp_path: Path) -> None:
    with running(configuration(tmp_path)) as gateway, calling(gateway, str(Verification)) as peer:
        assert peer.send_c_echo().Status == 0


def test_what_was_acknowledged_is_archived_and_leaves_the_spool(tmp_path: Path) -> None:
    sent = [instance(number) for number in range(3)]
    late = instance(9)
    with running(configuration(tmp_path)) as gateway:
        with calling(gateway) as peer:
            assert [peer.send_c_store(one).Status for one in sent] == [0, 0, 0]
        wait(archived(gateway))
        first = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*.mdz")}
        with calling(gateway) as peer:
            assert peer.send_c_store(late).Status == 0
            assert peer.send_c_store(sent[0]).Status == 0
        wait(archived(gateway))
        assert gateway.metrics.value("instances_again_total") == 1
    assert sorted(restored(tmp_path).values()) == sorted(encoded(one) for one in [*sent, late])
    assert all(path.read_bytes() == data for path, data in first.items()) and len(first) == 1
    assert query(tmp_path / "store", "SELECT kind, key, part, state FROM archives ORDER BY part") == [
        ("series", "1.2.3.4", 1, "removed"),
        ("series", "1.2.3.4", 2, "removed"),
    ]
    assert sum(event["removed"] for event in events(tmp_path / "store", "sources removed")) == 4


def test_a_killed_gateway_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    configuration(tmp_path, quiet_seconds=600)
    code = f"from gateways import serve; serve({str(tmp_path / 'gateway.toml')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = []
    with calling(int(process.stdout.readline())) as peer:
        for number in range(12):
            one = instance(number)
            if number == 7:
                threading.Timer(0.02, process.kill).start()
                time.sleep(0.02)
            try:
                if peer.send_c_store(one).get("Status") == 0:
                    acknowledged.append(encoded(one))
            except RuntimeError:  # the association is gone
                break
    assert process.wait() == -signal.SIGKILL and len(acknowledged) >= 7
    (tmp_path / "spool" / "partial" / "left").write_bytes(b"half of an instance")
    with running(configuration(tmp_path)) as gateway:
        assert gateway.index.counts()[2] >= len(acknowledged)
        wait(archived(gateway))
    assert set(restored(tmp_path).values()) >= set(acknowledged)
    assert not list((tmp_path / "spool" / "partial").iterdir())


def test_private_classes_and_any_transfer_syntax_are_taken_as_they_are(tmp_path: Path) -> None:
    private, syntax = "1.2.999.1", "1.2.999.2"
    one = instance(1, SOPClassUID=private)
    with running(configuration(tmp_path, quiet_seconds=600)) as gateway:
        with calling(gateway, private, syntaxes=[syntax, "1.2.840.10008.1.2"]) as peer:
            assert [str(context.transfer_syntax[0]) for context in peer.accepted_contexts] == [syntax]
            one.file_meta.TransferSyntaxUID = syntax
            peer.accepted_contexts[0]._transfer_syntax = [
                ExplicitVRLittleEndian
            ]  # pynetdicom cannot encode what it does not know
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            assert peer.send_c_store(one).Status == 0
        [kept] = gateway.spool.names()
        found = gateway.spool.find(kept)
        assert found is not None and data_set(found.read_bytes()) == encoded(one)
        assert pydicom.dcmread(found).file_meta.TransferSyntaxUID == syntax
        assert gateway.index.instances("class = ?", (private,))[0].syntax == syntax


@pytest.mark.parametrize(
    ("values", "status"),
    [({"StudyInstanceUID": ""}, 0xC000), ({"SeriesInstanceUID": "../../../etc"}, 0xC000), ({"SOPInstanceUID": "1.9"}, 0xA900)],
)
def test_what_is_not_what_it_says_is_refused_and_not_kept(tmp_path: Path, values: dict[str, str], status: int) -> None:
    one = instance(1)
    with running(configuration(tmp_path)) as gateway, calling(gateway) as peer:
        for keyword, value in values.items():
            one.add_new(tag_for_keyword(keyword), "UI", "")
            one[keyword]._value = value
        assert sent_as(peer, one, "1.2.3.4.1") == status
        assert not list(gateway.spool.names()) and not list(gateway.spool.partial.iterdir())
        assert gateway.metrics.value("instances_refused_total") == 1


def test_a_disk_that_would_be_full_refuses_with_a700(tmp_path: Path) -> None:
    with running(configuration(tmp_path, minimum_free_bytes=1 << 59)) as gateway, calling(gateway) as peer:
        assert peer.send_c_store(instance(1)).Status == 0xA700
        assert not list(gateway.spool.names()) and not list(gateway.spool.partial.iterdir())


def test_a_forgotten_series_neither_stays_nor_comes_back(tmp_path: Path) -> None:
    with running(configuration(tmp_path)) as gateway:
        with calling(gateway) as peer:
            assert peer.send_c_store(instance(1)).Status == 0
        wait(archived(gateway))
        wait(lambda: main(["forget", str(tmp_path / "store"), "--series", "1.2.3.4", "--quiet"]) == 0)
        with calling(gateway) as peer:
            assert peer.send_c_store(instance(2)).Status == 0x0124
        gateway.archiver.sync_index()
        assert gateway.index.counts() == (0, 0, 0)
    assert not list((tmp_path / "store").rglob("*.mdz")) and not list((tmp_path / "spool").rglob("*.dcm"))


def test_the_index_is_made_again_from_spool_and_archives(tmp_path: Path) -> None:
    with running(configuration(tmp_path)) as gateway:
        with calling(gateway) as peer:
            for number in range(2):
                assert peer.send_c_store(instance(number)).Status == 0
        wait(archived(gateway))
    with running(configuration(tmp_path, quiet_seconds=600)) as gateway:
        with calling(gateway) as peer:
            assert peer.send_c_store(instance(2)).Status == 0
        before = gateway.index.instances("1", ())
        studies = list(gateway.index.select("SELECT * FROM studies", ()))
    for path in (tmp_path / "spool").glob("index.sqlite*"):
        path.write_bytes(b"damaged" * 1000)
    with running(configuration(tmp_path, quiet_seconds=600)) as gateway:
        assert gateway.index.instances("1", ()) == before and len(before) == 3
        assert list(gateway.index.select("SELECT * FROM studies", ())) == studies


def test_nothing_is_told_of_patients_and_paths(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    bad = instance(2)
    bad.SeriesInstanceUID = ""
    with caplog.at_level("DEBUG"), running(configuration(tmp_path)) as gateway:
        with calling(gateway) as peer:
            assert peer.send_c_store(instance(1)).Status == 0
            assert peer.send_c_store(bad).Status == 0xC000
        wait(archived(gateway))
        told = gateway.metrics.text()
    told += "".join(record.getMessage() for record in caplog.records if record.name.startswith("medzip"))
    told += "".join(capfd.readouterr())
    assert "archived" in told
    assert not [secret for secret in ("Müller", "Jane", "P-1", "1.2.3", str(tmp_path)) if secret in told]


def test_of_an_instance_that_came_in_versions_all_are_kept_and_the_last_is_found(tmp_path: Path) -> None:
    first, second = instance(1), instance(1, seed=1)
    with running(configuration(tmp_path)) as gateway:
        for versions in ([first, second], [first]):
            with calling(gateway) as peer:
                for one in versions:
                    assert peer.send_c_store(one).Status == 0
                    time.sleep(0.02)
            wait(archived(gateway))
        gateway.archiver.sync_index()
        [found] = gateway.index.instances("1", ())
        assert found.archive is not None
        [(_, path)] = [(one, path.read_bytes()) for one, path in gateway.retriever.files([found], lambda: None) if path]
        assert data_set(path) == encoded(first)
    assert sorted(restored(tmp_path).values()) == sorted(map(encoded, (first, second)))


def test_of_two_spooled_versions_a_new_start_finds_the_last(tmp_path: Path) -> None:
    with running(configuration(tmp_path, quiet_seconds=600)) as gateway:
        with calling(gateway) as peer:
            for seed in range(4):
                assert peer.send_c_store(instance(1, seed=seed)).Status == 0
                time.sleep(0.02)
        before = gateway.index.instances("1", ())
    for lost in (False, True):
        for path in (tmp_path / "spool").glob("index.sqlite*") if lost else ():
            path.unlink()
        with running(configuration(tmp_path, quiet_seconds=600)) as gateway:
            assert gateway.index.instances("1", ()) == before


def test_an_instance_that_is_too_large_ends_its_association_and_leaves_nothing(tmp_path: Path) -> None:
    limited = ("[dicom]", "port = 0", "maximum_instance_bytes = 1048576")
    with running(configuration(tmp_path, *limited)) as gateway:
        with calling(gateway) as peer:
            assert peer.send_c_store(instance(1, ImageComments="x" * 1000)).Status == 0
            large = instance(2)
            large.add_new(0x00091002, "OB", bytes(1_200_000))
            assert peer.send_c_store(large).get("Status") is None
        wait(lambda: not list(gateway.spool.partial.iterdir()))
        assert gateway.index.counts()[2] == 1


def test_a_spooled_instance_can_be_sent_while_it_is_archived(tmp_path: Path) -> None:
    with running(configuration(tmp_path, quiet_seconds=1)) as gateway:
        with calling(gateway) as peer:
            assert peer.send_c_store(instance(1)).Status == 0
        found = gateway.index.instances("1", ())
        for one, path in gateway.retriever.files(found, lambda: None):
            wait(archived(gateway))
            assert one.archive is None and path is not None and data_set(path.read_bytes()) == encoded(instance(1))
        [(_, path)] = [(one, path and path.read_bytes()) for one, path in gateway.retriever.files(found, lambda: None)]
        assert path is not None and data_set(path) == encoded(instance(1))


def test_the_end_does_not_wait_for_archives(tmp_path: Path) -> None:
    with running(configuration(tmp_path, jobs=1)) as gateway:
        with calling(gateway) as peer:
            for number in range(4):
                assert peer.send_c_store(instance(0, series=f"1.2.3.{number}")).Status == 0
        wait(lambda: gateway.metrics.value("archives_committed_total"))
    with running(configuration(tmp_path, quiet_seconds=600)) as gateway:
        assert gateway.index.counts() == (1, 4, 4)
        wait(archived(gateway))
    assert len(restored(tmp_path)) == 4


def file_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_a_header_holds_it_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(file_of(instance(1)))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(132, len(whole) - 200))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    with contextlib.suppress(UnsupportedInputError):
        header = headers.read(io.BytesIO(bytes(whole[:cut])))
        assert all(set(uid) <= set("0123456789.") for uid in (header.study, header.series, header.instance))


def test_headers_that_inflate_or_nest_without_end_are_refused_soon() -> None:
    plain = file_of(instance(1))
    deflated = instance(1)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = file_of(deflated)
    head = head[: len(head) - len(data_set(head))]
    bomb = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    group = data_set(plain)[: data_set(plain).index(b"Jane")]
    many = bytes.fromhex("0900 0100 4c4f 0000")  # private elements without a value
    body = bomb.compress(group[:-40]) + b"".join(bomb.compress(many * (1 << 17)) for _ in range(1 << 8)) + bomb.flush()
    nested = bytes.fromhex("0800 4011 5351 0000 ffffffff") + 5000 * bytes.fromhex("feff00e0ffffffff 0800 4011 5351 0000 ffffffff")
    for file in (head + body, plain[: len(plain) - len(data_set(plain))] + nested):
        began = time.process_time()
        with pytest.raises(UnsupportedInputError):
            headers.read(io.BytesIO(file))
        assert time.process_time() - began < 60
