"""The page of `medzip view`: the right pixels for who may see them, nothing for others, and no harm from hostile archives."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_inputs import files_of, rewritten, smooth, written
from test_sources_dicom import element, image

from medzip import pipeline
from medzip.cli import main
from medzip.container.reader import ArchiveReader
from medzip.entropy_model.pixel import chunk_samples, model
from medzip.exact import kernels
from medzip.volume import Deflated, Literal, Voxels

pytest.importorskip("starlette", reason="the extra 'view' is not installed here")
from starlette.testclient import TestClient

from medzip.view import headers, server
from medzip.view import scan as scan_module
from medzip.view.scan import Scan

ROOT = Path(__file__).resolve().parents[1]
SECRET = "secret"
HOSTILE = '<img src=x onerror="alert(1)">'
SERIES = smooth((5, 12, 10), "i2") - 20
VOLUME = smooth((4, 9, 8), "u2", seed=6)


def dicom(z: int) -> bytes:
    """A slice of SERIES with a patient, a private element and texts that are markup, one of them where numbers are expected."""
    texts = {
        0x00080070: ("LO", HOSTILE),
        0x00080090: ("PN", "Referrer^Rita"),
        0x00100010: ("PN", "Doe^Jane"),
        0x00100020: ("LO", "12345"),
        0x00100040: ("CS", "F"),
        0x00111001: ("LO", "Jane again"),
        0x00180050: ("DS", "2.5"),
        0x00181030: ("LO", "Jane Doe knee"),
        0x0020000E: ("UI", "1.2.3"),
        0x00200013: ("IS", str(z)),
        0x00200032: ("DS", f"0\\0\\{2.5 * z}"),
        0x00200037: ("DS", "1\\0\\0\\0\\1\\0"),
        0x00280030: ("DS", "0.5\\0.5"),
    }
    return image(SERIES[z : z + 1], texts=texts)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """'series': SERIES as DICOM; 'nifti': VOLUME; 'colours': frames of red, green and blue; 'files': no voxels at all."""
    folder = tmp_path_factory.mktemp("view")
    written(folder / "series", {f"Doe_Jane_{z}.dcm": dicom(z) for z in range(len(SERIES))})
    written(folder, files_of("nii", VOLUME))
    np.save(folder / "colours.npy", np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3))
    (folder / "notes.txt").write_text("no scan")
    sources = {"series": "series", "nifti": "scan.nii", "colours": "colours.npy", "files": "notes.txt"}
    for name, source in sources.items():
        pipeline.compress(folder / source, folder / f"{name}.mdz", preset="parametric", store=True)
    return {name: folder / f"{name}.mdz" for name in sources}


def client_of(path: Path, *, show_patient: bool = False, host: str = "127.0.0.1") -> TestClient:
    app = server.application(Scan(path, show_patient=show_patient), SECRET, host)
    return TestClient(app, base_url=f"http://127.0.0.1:8000/{SECRET}/", raise_server_exceptions=False)


@pytest.fixture
def series(archives: dict[str, Path]) -> TestClient:
    return client_of(archives["series"])


# What is shown


@pytest.mark.parametrize(("name", "expected"), [("series", SERIES), ("nifti", VOLUME)])
def test_slices_are_the_pixels_of_the_originals(archives: dict[str, Path], name: str, expected: np.ndarray) -> None:
    client = client_of(archives[name])
    [volume] = client.get("archive").json()["volumes"]
    assert volume["shape"] == list(expected.shape)
    for index, samples in enumerate(expected):
        answer = client.get(f"volumes/0/slices/{index}/samples")
        assert answer.headers["content-type"] == "application/octet-stream"
        np.testing.assert_array_equal(np.frombuffer(answer.content, volume["dtype"]).reshape(samples.shape), samples)


def test_colours_are_sent_pixel_by_pixel_and_halves_as_what_browsers_have(archives: dict[str, Path], tmp_path: Path) -> None:
    client = client_of(archives["colours"])
    assert client.get("volumes/0/slices/1/samples").content == bytes(range(60, 120))
    assert client.get("archive").json()["volumes"][0]["chunks"][-1]["end"] == 2
    np.save(tmp_path / "half.npy", np.array([[[0.5, -2.0, 6e-8]]], np.float16))
    pipeline.compress(tmp_path / "half.npy", tmp_path / "half.mdz", preset="parametric")
    client = client_of(tmp_path / "half.mdz")
    assert client.get("archive").json()["volumes"][0]["dtype"] == "<f4"
    assert np.frombuffer(client.get("volumes/0/slices/0/samples").content, "<f4").tolist() == [0.5, -2.0, float(np.float16(6e-8))]


def test_only_the_chunk_touched_is_decoded_and_it_is_kept(archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from medzip import archive

    decoded = []

    def counting(*arguments: Any) -> Any:
        decoded.append(arguments)
        return decode(*arguments)

    decode = archive.decode_chunk
    monkeypatch.setattr(archive, "decode_chunk", counting)
    client = client_of(archives["series"])
    client.get("archive")
    client.get("volumes/0/slices/0/header")
    assert decoded == []
    for index in (0, 1, 2, 0):
        client.get(f"volumes/0/slices/{index}/samples")
    assert len(decoded) == 1


def test_how_chunks_were_coded_is_told(series: TestClient, archives: dict[str, Path]) -> None:
    [chunk] = series.get("archive").json()["volumes"][0]["chunks"]
    with ArchiveReader(archives["series"]) as reader:
        section = reader.chunks[0].section
    assert (chunk["first"], chunk["end"], chunk["kind"]) == (0, 5, pipeline.open(archives["series"]).header(0)["kind"])
    assert chunk["bytes"] == section.end - section.offset
    assert chunk["bits"] == pytest.approx(8 * chunk["bytes"] / SERIES.size)


def test_voxels_that_are_no_squares_and_rows_that_go_up_are_told(archives: dict[str, Path]) -> None:
    [volume] = client_of(archives["nifti"]).get("archive").json()["volumes"]
    assert volume["aspect"] == pytest.approx(
        float(np.divide(*np.linalg.norm(pipeline.open(archives["nifti"]).volumes[0].affine[:3, 1::-1], axis=0)))
    )
    assert client_of(archives["series"]).get("archive").json()["volumes"][0]["upside_down"] is False


def test_an_archive_without_voxels_says_so(archives: dict[str, Path]) -> None:
    client = client_of(archives["files"])
    assert client.get("archive").json()["volumes"] == []
    assert client.get("volumes/0/slices/0/samples").status_code == 404


# Headers


def rows_of(client: TestClient, index: int = 1) -> dict[str, Any]:
    return {row["tag"] or row["name"]: row["value"] for row in client.get(f"volumes/0/slices/{index}/header").json()["rows"]}


def test_patient_elements_are_hidden_by_default(series: TestClient) -> None:
    rows = rows_of(series)
    for tag in ("(0010,0010)", "(0010,0020)", "(0010,0040)", "(0008,0090)", "(0011,1001)", "(0018,1030)", "(0020,000E)"):
        assert rows[tag] is None
    assert (rows["(0018,0050)"], rows["(0020,0013)"], rows["(0028,0010)"]) == ("2.5", "1", "12")
    everything = "".join(series.get(path).text for path in ("", "archive", "volumes/0/slices/1/header"))
    assert not any(word in everything for word in ("Jane", "Doe", "12345", "Rita"))


def test_patient_elements_are_shown_where_asked(archives: dict[str, Path]) -> None:
    client = client_of(archives["series"], show_patient=True)
    rows = rows_of(client)
    assert (rows["(0010,0010)"], rows["(0010,0020)"], rows["(0011,1001)"]) == ("Doe^Jane", "12345", "Jane again")
    header = client.get("volumes/0/slices/1/header").json()
    assert (header["name"], header["file"], header["hidden"]) == ("Doe_Jane_1.dcm", 1, 0)


def test_headers_are_those_of_the_slice(series: TestClient) -> None:
    assert [rows_of(series, index)["(0020,0013)"] for index in range(5)] == list("01234")


def test_texts_of_nifti_are_hidden_and_numbers_shown(tmp_path: Path) -> None:
    data = bytearray(files_of("nii", VOLUME)["scan.nii"])
    struct.pack_into("11s", data, 148, b"Jane's knee")
    (tmp_path / "scan.nii").write_bytes(data)
    pipeline.compress(tmp_path / "scan.nii", tmp_path / "a.mdz", preset="parametric")
    hidden, shown = (rows_of(client_of(tmp_path / "a.mdz", show_patient=show)) for show in (False, True))
    assert (hidden["descrip"], shown["descrip"]) == (None, "Jane's knee")
    assert hidden["dim"] == shown["dim"] == "3 8 9 4 1 1 1 1"


def test_headers_in_gzip_are_shown() -> None:
    inner = headers.table(files_of("nii", VOLUME)["scan.nii"], True)
    start = scan_module._start((Deflated((Literal(files_of("nii", VOLUME)["scan.nii"][:352]), Voxels(0, 0, 4, "<u2")), b""),))
    assert headers.table(start, True) == inner
    assert inner.format == "NIfTI"


def test_hostile_texts_come_as_data_and_the_page_never_makes_markup_of_them(series: TestClient) -> None:
    answer = series.get("volumes/0/slices/1/header")
    assert answer.headers["content-type"] == "application/json"
    assert rows_of(series)["(0008,0070)"] == HOSTILE
    script = series.get("view.js").text
    assert "textContent" in script
    assert not any(word in script for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("))
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "require-trusted-types-for 'script'" in answer.headers["content-security-policy"]


def test_characters_that_would_change_how_others_look_are_replaced() -> None:
    assert headers.printable("a\u202eb\x1bc\n") == "a\ufffdb\ufffdc\ufffd"
    assert len(headers.printable("x" * 100_000)) == headers.LONGEST_VALUE + 1


def test_hostile_headers_give_a_note_and_no_error() -> None:
    deep = b"".join(element(0x00091010, "SQ", b"", length=0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(5000))
    start = bytes(128) + b"DICM" + element(0x00020010, "UI", b"1.2.840.10008.1.2.1")
    deflated = bytes(128) + b"DICM" + element(0x00020010, "UI", b"1.2.840.10008.1.2.1.99") + b"\x63\x60\x00\x00"
    many = b"".join(element(0x00280000 | i & 0xFFFF, "US", b"\1\0") for i in range(headers.MOST_ROWS + 10))
    pixels = element(0x7FE00010, "OW", b"", length=10)
    for data in (
        start + deep,
        deflated,
        bytes(128) + b"DICM",
        start + b"\x08\x00\x60\x00CS\xff\xff",
        bytes(headers.LONGEST_HEADER + 1),
    ):
        found = headers.table(data, True)
        assert found.note
        assert found.rows == ()
    assert len(headers.table(start + many + pixels, True).rows) == headers.MOST_ROWS


# Who is answered


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "a@b", "", "0.0.0.0"])
def test_a_foreign_host_header_is_refused(series: TestClient, host: str) -> None:
    for path in ("", "archive", "volumes/0/slices/0/samples"):
        answer = series.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_this_machine_is_answered_by_all_its_names(series: TestClient, host: str) -> None:
    assert series.get("archive", headers={"Host": host}).status_code == 200


def test_a_host_that_was_asked_for_is_answered(archives: dict[str, Path]) -> None:
    client = client_of(archives["series"], host="pacs.example")
    assert client.get("archive", headers={"Host": "pacs.example:8000"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/archive", "/view.js", "/other/archive", "/volumes/0/slices/0/samples", f"/{SECRET}x/archive"]
)
def test_without_the_secret_nothing_is_answered(archives: dict[str, Path], path: str) -> None:
    client = TestClient(server.application(Scan(archives["series"]), SECRET, "127.0.0.1"), base_url="http://127.0.0.1:8000")
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_is_answered(series: TestClient, method: str) -> None:
    assert series.request(method, "archive").status_code == 405


def test_other_pages_are_kept_out(series: TestClient) -> None:
    for path in ("", "view.css", "archive", "volumes/9/slices/0/samples"):
        answer = series.get(path, headers={"Origin": "http://evil.example"})
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy


def test_the_page_needs_nothing_from_anywhere_else(series: TestClient) -> None:
    files = [series.get(path) for path in ("", "view.css", "view.js")]
    assert [file.status_code for file in files] == [200, 200, 200]
    assert not any(
        word in file.text for file in files for word in ("http:", "https:", "//cdn", "@import", "url(", "<style", "onclick")
    )
    assert "Not a medical device, not for diagnosis" in files[0].text


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("0/slices/5", 404),
        ("1/slices/0", 404),
        ("999999999/slices/999999999", 404),
        ("-1/slices/0", 422),
        ("0/slices/-1", 422),
        ("0/slices/1.5", 422),
        ("0/slices/0x1", 422),
        ("0/slices/٣", 422),
        ("0/slices/" + "9" * 5000, 422),
        ("0/slices/nan", 422),
        ("0/slices/1%00", 422),
        ("0/slices/..%2f..%2fview.js", 404),
        ("0", 404),
    ],
)
def test_what_is_not_there_is_refused(series: TestClient, place: str, status: int) -> None:
    for what in ("samples", "header"):
        assert series.get(f"volumes/{place}/{what}").status_code == status


# Archives that are damaged or hostile


def test_a_damaged_chunk_gives_a_clear_error_and_no_traceback(archives: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(archives["series"].read_bytes())
    with ArchiveReader(archives["series"]) as reader:
        data[reader.chunks[0].section.end - 5] ^= 1
    (tmp_path / "damaged.mdz").write_bytes(data)
    client = client_of(tmp_path / "damaged.mdz")
    answer = client.get("volumes/0/slices/0/samples")
    assert answer.status_code == 500
    assert "CRC" in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert client.get("archive").status_code == 200


def test_a_bug_gives_no_traceback_either(archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("Doe^Jane")

    client = client_of(archives["series"])
    monkeypatch.setattr("medzip.archive.decode_chunk", fail)
    answer = client.get("volumes/0/slices/0/samples")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert "Jane" not in answer.text
    assert "Traceback" not in answer.text


def test_heads_that_say_nonsense_are_shown_as_text(archives: dict[str, Path], tmp_path: Path) -> None:
    def changed(head: dict[str, Any]) -> dict[str, Any]:
        affine = [float("nan"), float("inf"), *[1e308] * 14]
        return head | {"preset": {"a": [HOSTILE]}, "guarantee": b"\0", "volumes": [head["volumes"][0] | {"affine": affine}]}

    archive = rewritten(archives["nifti"], tmp_path / "hostile.mdz", head=changed)
    answer = client_of(archive).get("archive")
    assert answer.status_code == 200
    assert HOSTILE in answer.json()["about"]["preset"]
    assert answer.json()["volumes"][0]["aspect"] == 1.0


def test_what_stands_beside_the_voxels_is_not_unpacked_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medzip.view.scan.LONGEST_BLOBS", 1000)
    (tmp_path / "scan.npy").write_bytes((b"".join(files_of("npy", VOLUME).values())) + bytes(100_000))
    pipeline.compress(tmp_path / "scan.npy", tmp_path / "a.mdz", preset="parametric")
    client = client_of(tmp_path / "a.mdz")
    assert "100000 bytes" in client.get("volumes/0/slices/0/header").json()["note"]
    assert client.get("volumes/0/slices/0/samples").status_code == 200


# The command


def test_the_command_serves_until_it_is_interrupted(archives: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "medzip", "view", str(archives["series"]), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["url"]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address + "volumes/0/slices/2/samples", timeout=60) as answer:
            assert np.array_equal(np.frombuffer(answer.read(), "<i2").reshape(SERIES[2].shape), SERIES[2])
            assert "server" not in answer.headers
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()


def test_all_addresses_at_once_and_impossible_ports_are_refused(
    archives: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--host", "0.0.0.0"], ["--host", "::"], ["--port", "65536"], ["--port", "-1"], ["--port", "x"]):
        assert main(["view", str(archives["series"]), *words]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_archive_is_no_server(archives: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.mdz").write_bytes(archives["series"].read_bytes()[:-100])
    assert main(["view", str(tmp_path / "cut.mdz")]) == 3
    assert main(["view", str(tmp_path / "none.mdz")]) == 6
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "pydicom", "nibabel"])
def test_what_is_not_installed_is_named(
    archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("medzip.view") or name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delattr("medzip.view.server", raising=False)
    monkeypatch.delattr("medzip.view.scan", raising=False)
    assert main(["view", str(archives["series"])]) == 5
    error = capsys.readouterr().err
    assert missing in error
    assert "medzip[view]" in error


def test_nothing_of_the_server_is_imported_for_help() -> None:
    heavy = {"starlette", "uvicorn", "pydicom", "numpy"}
    code = f"import sys, medzip.cli; medzip.cli.main(['view', '--help']); print(set(sys.modules) & {heavy!r}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


# What voxels cost


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixel model in numpy, which need not be compiled first and computes the same."""
    monkeypatch.setattr(model, "_compiled", lambda: None)
    monkeypatch.setattr(chunk_samples, "available", lambda: False)
    monkeypatch.setattr(kernels, "fastest", lambda *_: list(kernels.kernels())[-1])


@pytest.mark.usefixtures("interpreted")
def test_the_bits_of_all_voxels_are_those_that_the_chunk_takes(tmp_path: Path) -> None:
    for name, samples in {"grey": smooth((3, 12, 12)), "colours": smooth((2, 10, 30), "u1").reshape(2, 10, 10, 3)}.items():
        np.save(tmp_path / f"{name}.npy", samples)
        pipeline.compress(tmp_path / f"{name}.npy", tmp_path / f"{name}.mdz", preset="fast", verify=False)
        client = client_of(tmp_path / f"{name}.mdz")
        chunks = client.get("archive").json()["volumes"][0]["chunks"]
        assert [chunk["tells"] for chunk in chunks] == [True]
        answers = [client.get(f"volumes/0/slices/{index}/bits") for index in range(len(samples))]
        bits = np.stack([np.frombuffer(answer.content, "<f4").reshape(samples.shape[1:3]) for answer in answers])
        with ArchiveReader(tmp_path / f"{name}.mdz") as reader:
            taken = 8 * len(reader.chunk_payload(0))
        assert bits.min() >= 0
        assert taken - 64 <= bits.sum() <= taken


def test_other_models_cannot_tell_what_voxels_cost(series: TestClient) -> None:
    assert series.get("archive").json()["volumes"][0]["chunks"][0]["tells"] is False
    answer = series.get("volumes/0/slices/0/bits")
    assert answer.status_code == 500
    assert "pixel model" in answer.json()["error"]
