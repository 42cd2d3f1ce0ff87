"""`medzip gateway`: STOW-RS, QIDO-RS and WADO-RS, and who may."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="the gateway's extra is not installed")

from gateways import archived, configuration, data_set, encoded, instance, running, wait
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from starlette.testclient import TestClient
from test_gateway_retrieval import compressed

from medzip.gateway.multipart import BrokenBodyError, Parts
from medzip.gateway.service import Gateway

NATIVE = [instance(number) for number in range(3)]
PACKED = compressed(instance(7, series="1.2.3.5"))
SERIES = "/dicom-web/studies/1.2.3/series/1.2.3.4"
ONE = f"{SERIES}/instances/1.2.3.4.1"
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def file_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def body(*parts: bytes, boundary: str = "b", kind: str = "application/dicom") -> bytes:
    pieces = [f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + part + b"\r\n" for part in parts]
    return b"".join(pieces) + f"--{boundary}--\r\n".encode()


def client(gateway: Gateway, **headers: str) -> TestClient:
    assert gateway.web is not None
    return TestClient(gateway.web.application(), base_url="http://127.0.0.1", headers=headers, raise_server_exceptions=False)


def stow(caller: TestClient, data: bytes, path: str = "/dicom-web/studies", **more: str) -> Any:
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'} | more
    return caller.post(path, content=data, headers=headers)


def parts(answer: Any) -> list[bytes]:
    """The parts of a multipart answer."""
    boundary = re.search("boundary=(.*)", answer.headers["content-type"])
    assert answer.status_code == 200 and boundary
    *found, end = answer.content.split(f"--{boundary[1]}".encode())
    assert end == b"--\r\n"
    return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in found[1:]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two series in archives, an instance of one in the spool."""
    folder = tmp_path_factory.mktemp("web")
    with running(configuration(folder, "[web]", "port = 0")) as started:
        answer = stow(client(started), body(*map(file_of, [*NATIVE[:2], PACKED])))
        assert answer.status_code == 200 and len(answer.json()["00081199"]["Value"]) == 3
        wait(archived(started))
    with running(configuration(folder, "[web]", "port = 0", quiet_seconds=600)) as started:
        assert stow(client(started), body(file_of(NATIVE[2])), "/dicom-web/studies/1.2.3").status_code == 200
        yield started


def test_instances_come_back_as_stored(gateway: Gateway) -> None:
    answer = client(gateway, Accept=AS_STORED).get("/dicom-web/studies/1.2.3")
    assert sorted(map(data_set, parts(answer))) == sorted(map(encoded, [*NATIVE, PACKED]))
    one = client(gateway, Accept="application/dicom; transfer-syntax=*").get(ONE)
    assert data_set(one.content) == encoded(NATIVE[1])


def test_instances_come_back_decoded_by_default(gateway: Gateway) -> None:
    [packed] = parts(client(gateway).get("/dicom-web/studies/1.2.3/series/1.2.3.5"))
    assert dcmread(io.BytesIO(packed)).PixelData == instance(7).PixelData


def test_metadata_holds_every_element_but_the_pixels(gateway: Gateway) -> None:
    headers = client(gateway).get(f"{SERIES}/metadata").json()
    for header, sent in zip(sorted(headers, key=lambda one: one["00080018"]["Value"]), NATIVE, strict=True):
        expected = Dataset()
        expected.update({element.tag: element for element in sent if element.keyword != "PixelData"})
        assert Dataset.from_json(header) == expected


def test_frames_come_decoded_or_as_stored(gateway: Gateway) -> None:
    packed = "/dicom-web/studies/1.2.3/series/1.2.3.5/instances/1.2.3.5.7"
    assert parts(client(gateway).get(f"{ONE}/frames/1")) == [NATIVE[1].PixelData]
    assert parts(client(gateway).get(f"{packed}/frames/1")) == [instance(7).PixelData]
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
    [stored] = parts(client(gateway, Accept=accept).get(f"{packed}/frames/1"))
    assert stored.rstrip(b"\0") in PACKED.PixelData and len(stored) > 40
    assert client(gateway).get(f"{ONE}/frames/2").status_code == 404
    assert client(gateway).get(f"{ONE}/frames/0").status_code == 400


def test_queries_find_what_fits(gateway: Gateway) -> None:
    caller = client(gateway)
    [study] = caller.get("/dicom-web/studies", params={"PatientName": "mül*", "StudyDate": "20260101-"}).json()
    assert study["00100010"]["Value"] == [{"Alphabetic": "Müller^Jane"}]
    assert (study["00201208"]["Value"], study["00081190"]["Value"]) == ([4], ["http://127.0.0.1/dicom-web/studies/1.2.3"])
    assert caller.get("/dicom-web/studies", params={"00100020": "P-2"}).json() == []
    assert len(caller.get("/dicom-web/studies/1.2.3/series").json()) == 2
    assert len(caller.get(f"{SERIES}/instances", params={"limit": 2}).json()) == 2
    assert len(caller.get(f"{SERIES}/instances", params={"limit": 2, "offset": 2}).json()) == 1
    assert len(caller.get("/dicom-web/instances", params={"SOPInstanceUID": "1.2.3.4.1,1.2.3.5.7"}).json()) == 2
    assert caller.get("/dicom-web/studies", params={"Nonsense": "x"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/dicom-web/studies/1.2.4", AS_STORED, 404),
        ("/dicom-web/studies/1.2.3*", AS_STORED, 400),
        ("/dicom-web/studies/1.2.3", "image/jpeg", 406),
        ("/dicom-web/studies/1.2.3", "application/dicom", 406),
        (ONE, 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90', 406),
    ],
)
def test_what_cannot_be_given_is_refused(gateway: Gateway, path: str, accept: str, status: int) -> None:
    assert client(gateway, Accept=accept).get(path).status_code == status


def test_a_broken_part_fails_alone_and_nothing_of_it_is_kept(gateway: Gateway) -> None:
    before = gateway.index.counts()
    answer = stow(client(gateway), body(file_of(NATIVE[0]), b"no DICOM", file_of(NATIVE[1])[:200]))
    assert answer.status_code == 202
    assert [len(answer.json()[tag]["Value"]) for tag in ("00081199", "00081198")] == [1, 2]
    assert stow(client(gateway), body(file_of(NATIVE[0])), "/dicom-web/studies/1.2.4").status_code == 409
    assert gateway.index.counts() == before and not list(gateway.spool.partial.iterdir())


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (body(b"x")[:-6], {}, 400),
        (b"", {}, 400),
        (b"x", {"Content-Type": "application/dicom"}, 415),
        (b"x", {"Content-Type": "multipart/related; boundary=" + "b" * 99}, 400),
        (b"--b\r\n" + b"h" * 9000, {}, 400),
    ],
)
def test_a_broken_body_is_refused_and_leaves_nothing(gateway: Gateway, data: bytes, headers: dict[str, str], status: int) -> None:
    assert stow(client(gateway), data, **headers).status_code == status
    assert not list(gateway.spool.partial.iterdir())


def test_only_who_shows_the_token_and_asks_for_this_machine_gets_in(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t" * 40)
    options = configuration(tmp_path, "[web]", "port = 0", f"token_file = '{tmp_path}/token'", "maximum_request_bytes = 1048576")
    with running(options) as gateway:
        assert client(gateway).get("/dicom-web/studies").status_code == 401
        assert client(gateway, Authorization="Bearer " + "u" * 40).get("/metrics").status_code == 401
        shown = client(gateway, Authorization="Bearer " + "t" * 40)
        assert shown.get("/dicom-web/studies").json() == []
        assert "medzip_gateway_queries_total 1" in shown.get("/metrics").text
        assert [client(gateway).get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        assert shown.get("/dicom-web/studies", headers={"Host": "evil.example"}).status_code == 400
        assert stow(shown, b"x" * 1_100_000).status_code == 413


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=4), st.lists(st.integers(1, 30), min_size=1), st.data())
def test_parts_come_out_as_they_went_in_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    contents = [one for one in contents if b"\r\n--b" not in one]
    whole, folder = body(*contents), tmp_path_factory.mktemp("parts")
    names = iter(range(99))
    taken, place = Parts("b", lambda: folder / str(next(names))), 0
    while place < len(whole):
        size = data.draw(st.sampled_from(cuts))
        taken.feed(whole[place : place + size])
        place += size
    taken.end()
    assert [part.path.read_bytes() for part in taken.parts] == contents
    taken.close()
    assert not list(folder.iterdir())


def test_a_body_without_its_end_is_broken() -> None:
    taken = Parts("b", lambda: Path("unused"))
    taken.feed(b"--b")
    with pytest.raises(BrokenBodyError):
        taken.end()
