"""What docs/security.md says is held off and that no other test shows: each claim there names its test."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zstandard
from pipeline_inputs import contents, npy, rewritten, smooth
from test_sources_dicom import element

import medzip
from medzip import pipeline
from medzip.archived_file import opened
from medzip.cli import main
from medzip.container import cbor
from medzip.container.storage import AtomicFile
from medzip.errors import (
    ArchiveDamagedError,
    ModelMissingError,
    UnsupportedArchiveError,
    UnsupportedInputError,
    VerificationError,
)
from medzip.scaled import MAX_OTHERS, from_header
from medzip.sources.dicom import DicomSource
from medzip.sources.dicom_fields import fields
from medzip.sources.encapsulated.contract import Layout, NotReproducibleError
from medzip.sources.encapsulated.jpeg_markers import frame_size
from medzip.sources.encapsulated.jpeg_xl import SAMPLES_PER_BYTE, JpegXl
from medzip.sources.wrappers import deflate
from medzip.volume import Deflated, EncodedFrame, FileSkeleton, Volume, Voxels, join
from medzip.weights.registry import read_weights
from medzip.weights.tensors import read_tensors

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = smooth((3, 8, 9), "u2")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """An archive of SAMPLES."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.npy").write_bytes(npy(SAMPLES))
    pipeline.compress(tmp_path / "in" / "scan.npy", preset="parametric")
    return tmp_path / "in" / "scan.npy.mdz"


# Hostile archives


def test_a_file_never_grows_beyond_the_size_that_the_file_table_says(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred bytes of skeleton could ask for the same slices again and again until the disk is full."""
    written = 0

    def counting(file: AtomicFile, data: bytes) -> None:
        nonlocal written
        written += len(data)
        write(file, data)

    def again_and_again(payload: bytes) -> bytes:
        data = zstandard.decompress(payload)
        end = 4 + struct.unpack_from("<I", data)[0]
        [[name, [literal, voxels]]] = cbor.decode(data[4:end], "", 1 << 20)
        encoded = cbor.encode([[name, [literal, *[voxels] * 10_000]]])
        return zstandard.compress(struct.pack("<I", len(encoded)) + encoded + data[end:])

    hostile = rewritten(scan, tmp_path / "hostile.mdz", skeleton=again_and_again)
    write = AtomicFile.write
    monkeypatch.setattr(AtomicFile, "write", counting)
    for salvage in (False, True):
        with pytest.raises(ArchiveDamagedError, match="longer"):
            pipeline.decompress(hostile, tmp_path / "back", salvage=salvage)
    with pytest.raises(ArchiveDamagedError, match="longer"):
        pipeline.verify(hostile)
    assert written <= 2 * len(npy(SAMPLES))
    assert contents(tmp_path / "back") == {}


def test_a_file_that_the_file_table_does_not_name_is_never_written(scan: Path, tmp_path: Path) -> None:
    """It has no size there to be compared with: nothing would stop it from growing."""
    hostile = rewritten(scan, tmp_path / "hostile.mdz", files=lambda files: [files[0] | {"name": "other.npy"}])
    with medzip.open(hostile) as archive, pytest.raises(ArchiveDamagedError, match="file table"):
        next(archive.bounded("scan.npy", iter([b"x"])))
    with pytest.raises(VerificationError):
        pipeline.verify(hostile)
    with pytest.raises(ArchiveDamagedError):
        pipeline.decompress(hostile, tmp_path / "back")
    assert contents(tmp_path / "back") == {}


def test_a_source_file_as_a_stream_is_no_longer_than_it_can_have_been(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medzip.archived_file.MOST_CONTENT_BYTES", 10_000)
    with medzip.open(scan) as archive:
        [file] = archive.skeleton().files
        for again in (Voxels(0, 0, 3, "<u2"), EncodedFrame("rle", b"", (), Voxels(0, 0, 1, "<u2")), *file.segments[1:]):
            longer = FileSkeleton("scan.npy", (*file.segments, *[again] * 40))
            with pytest.raises(ArchiveDamagedError):
                opened(archive, longer)


def test_a_claim_of_huge_slices_is_refused_before_there_is_an_array(scan: Path, tmp_path: Path) -> None:
    claim = {"shape": [3, 1 << 40, 1 << 40], "dtype": "<u2"}
    hostile = rewritten(scan, tmp_path / "hostile.mdz", head=lambda head: head | {"volumes": [claim]})
    with medzip.open(hostile) as archive:
        for key in (0, slice(0, 0), [1], ...):
            with pytest.raises(UnsupportedArchiveError):
                archive[key]


def test_elements_without_end_are_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of zeros, or of elements without a value, would take half an hour."""
    monkeypatch.setattr("medzip.sources.dicom.MOST_ELEMENTS", 1000)
    monkeypatch.setattr("medzip.sources.dicom_fields.MOST_FIELDS", 1000)
    source, empty = DicomSource(), element(0x00080061, "CS", b"")
    start = bytes(128) + b"DICM" + element(0x00020010, "UI", b"1.2.840.10008.1.2.1\0") + element(0x00080060, "CS", b"SR")
    began = time.process_time()
    filled = start + bytes(1 << 26)
    skeleton, volumes = source.split([("a.dcm", filled)])
    assert not volumes and b"".join(join(skeleton.files[0], [])) == filled
    assert time.process_time() - began < 10  # 100 seconds where each was an element
    source.split([("a.dcm", start + empty * 900)])
    with pytest.raises(UnsupportedInputError, match="elements"):
        source.split([("a.dcm", start + empty * 1100)])
    found = fields(start + empty * 5000)
    assert found is not None and len(found) < 1010 and len(found[-1].value) > 3000 * len(empty)


def test_a_deflate_stream_of_endless_empty_blocks_is_refused() -> None:
    """Each costs next to no side information, and some time."""
    block = bytes.fromhex("000000ffff")  # stored, not final, no bytes
    content = bytes(100)
    last = zlib.compressobj(6, zlib.DEFLATED, -15)
    end = last.compress(content) + last.flush()
    few, many = block * 4000 + end, block * 5000 + end
    assert deflate.taken_apart(few, raw=True) is not None
    assert deflate.taken_apart(many, raw=True) is None


def test_a_link_under_the_name_of_a_file_is_replaced_and_never_written_through(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "scan.npy").symlink_to(tmp_path / "precious")
    assert main(["decompress", str(scan), "-o", str(tmp_path / "back")]) == 1
    assert main(["decompress", str(scan), "-o", str(tmp_path / "back"), "--overwrite"]) == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "back" / "scan.npy").is_symlink()
    assert (tmp_path / "back" / "scan.npy").read_bytes() == npy(SAMPLES)


def test_a_header_that_asks_for_endless_work_on_each_chunk_is_refused() -> None:
    header: dict[str, Any] = {"dtype": "<i2", "slope": 1.0, "offset": 0.0, "others": [[0, 0]] * MAX_OTHERS}
    assert from_header(header, np.dtype("f4"))[0].others == ((0, 0),) * MAX_OTHERS
    with pytest.raises(ArchiveDamagedError):
        from_header(header | {"others": [[0, 0]] * (MAX_OTHERS + 1)}, np.dtype("f4"))


def test_names_that_terminals_obey_are_shown_harmless(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;title\x07\x1b[2J\x9bm.npy"
    hostile = rewritten(scan, tmp_path / "hostile.mdz", files=lambda files: [files[0] | {"name": name}])
    for words in (["info", "-v"], ["decompress", "-o", str(tmp_path / "back")], ["verify"]):
        main([words[0], str(hostile), *words[1:]])
        shown = "".join(capsys.readouterr())
        assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
        assert "\x9b" not in shown
    main(["info", str(hostile)])
    assert r"\x1b]0;title\x07" in capsys.readouterr().out


def test_weights_are_tensors_and_json_within_bounds_and_nothing_is_unpickled(tmp_path: Path) -> None:
    deep, pickled = b"[" * 200_000, b"\x80\x04cos\nsystem\n(S'true'\ntR."
    for content in (struct.pack("<Q", len(deep)) + deep, struct.pack("<Q", 1 << 60), pickled):
        (tmp_path / "a.safetensors").write_bytes(content)
        for read in (read_weights, read_tensors):
            with pytest.raises(ModelMissingError):
                read(tmp_path / "a.safetensors")


def test_no_code_can_come_from_data() -> None:
    """No module can unpickle, evaluate or run what it reads; the one process that is started is medzip itself."""
    unpickling = r"import (pickle|marshal)|pickle\.loads?\(|allow_pickle=True|torch\.load\(|yaml\.load\(|\b(np|numpy)\.load\("
    found = re.compile(rf"{unpickling}|(?<![\w.])(eval|exec)\(|os\.system|shell=True")
    assert all(found.search(text) for text in ("x = eval(y)", "import pickle", "np.load(file)", "torch.load(path)"))
    modules = sorted((ROOT / "medzip").rglob("*.py"))
    assert len(modules) > 100
    assert [path.relative_to(ROOT).as_posix() for path in modules if found.search(path.read_text())] == []


# Hostile scans


def test_a_jpeg_of_some_hundred_bytes_does_not_take_all_memory() -> None:
    small = bytes(imagecodecs.jpeg8_encode(np.zeros((16, 16), np.uint8)))
    assert frame_size(small) == 256
    start = small.index(b"\xff\xc0") + 5
    bomb = small[:start] + struct.pack(">HH", 65000, 65000) + small[start + 4 :]
    layout = Layout(65000, 65000, 1, np.dtype("u1"))
    with pytest.raises(NotReproducibleError):
        JpegXl().decode(bomb, layout)
    blank = bytes(imagecodecs.jpeg8_encode(np.zeros((2048, 2048), np.uint8), optimize=True))
    assert frame_size(blank) < SAMPLES_PER_BYTE * len(blank)
    assert JpegXl().decode(blank, layout)[1]


def test_nested_headers_of_npy_are_refused() -> None:
    from medzip.sources.npy import NpySource

    for text in (b"(" * 60_000, b"{" * 60_000, b"-" * 60_000 + b"1", b"{'descr': __import__('os').system('true')}"):
        header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
        with pytest.raises(UnsupportedInputError):
            NpySource().split([("a.npy", header)])


def test_elements_that_claim_more_than_the_file_are_refused() -> None:
    for length in (0x7FFFFFFF, 0xFFFFFFFE):
        data = bytes(128) + b"DICM" + b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", length)
        with pytest.raises(UnsupportedInputError):
            DicomSource().split([("a.dcm", data)])


# Hostile folders


def test_nothing_is_imported_from_the_folder_where_sources_are_removed(tmp_path: Path) -> None:
    """`python -m` would look for modules there first."""
    marker = tmp_path / "was imported"
    folder = tmp_path / "upload"
    (folder / "medzip").mkdir(parents=True)
    for module in ("medzip/__init__.py", "medzip/__main__.py", "numpy.py", "json.py", "argparse.py"):
        (folder / module).write_text(f"open({str(marker)!r}, 'w')\n")
    (folder / "scan.npy").write_bytes(npy(SAMPLES))
    code = "import sys; sys.path.remove(''); from medzip.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["compress", "scan.npy", "--rm", "--preset", "parametric", "--json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["removed"]
    assert not marker.exists()
    assert (folder / "scan.npy.mdz").exists() and not (folder / "scan.npy").exists()


def test_a_deflated_bomb_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB of zeros as a deflated data set (PS3.5 annex A.5) of some kilobytes."""
    monkeypatch.setattr(deflate, "MOST_CONTENT_BYTES", 1 << 20)
    syntax = b"1.2.840.10008.1.2.1.99"
    packer = zlib.compressobj(9, wbits=-15)
    data = bytes(128) + b"DICM\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    data += packer.compress(bytes(1 << 26)) + packer.flush()
    tracemalloc.start()
    try:
        skeleton, volumes = DicomSource().split([("a.dcm", data)])
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
    assert volumes == []
    assert b"".join(join(skeleton.files[0], [])) == data


def test_a_deflate_stream_is_made_of_no_more_than_a_compressor_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflate, "MOST_CONTENT_BYTES", 1 << 20)
    volume = Volume(np.zeros((1, 256, 256), np.uint8))
    hostile = FileSkeleton("a", (Deflated((Voxels(0, 0, 1, "|u1"),) * 1_000_000, b""),))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveDamagedError, match="longer"):
            list(join(hostile, [volume]))
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_errors_never_quote_a_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytes(128) + b"DICM" + b"\x10\x00\x10\x00PN\x08\x00Doe^Jane" + b"\x10\x00\x20\x00LO\xff\xffcut"
    (tmp_path / "a.dcm").write_bytes(data)
    assert main(["compress", str(tmp_path / "a.dcm"), "-v"]) == 2
    assert "Jane" not in "".join(capsys.readouterr())


# The document


def test_every_test_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    there = {name for path in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 40
    assert named - there == set()
