"""Pairs of files and files that nothing reads, as a user meets them on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medzip
from medzip.cli import main
from medzip.errors import UnsupportedInputError

HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
DimSize = 7 6 5
ElementType = MET_SHORT
ElementDataFile = a.raw
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with a.mhd and a.raw."""
    (tmp_path / "a.mhd").write_text(HEADER)
    (tmp_path / "a.raw").write_bytes(np.arange(210, dtype="<i2").tobytes())
    return tmp_path


def compress(*arguments: object) -> int:
    return main(["compress", "--preset", "parametric", *map(str, arguments)])


@pytest.mark.parametrize("named", ["a.mhd", "a.raw"])
def test_naming_one_file_of_a_pair_takes_both_and_says_so(named: str, pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress(pair / named) == 0
    other = ({"a.mhd", "a.raw"} - {named}).pop()
    assert f"{other} belongs to it, and is in the same archive" in capsys.readouterr().err
    assert main(["decompress", str(pair / "a.mhd.mdz"), "-o", str(pair / "back")]) == 0
    for name in ("a.mhd", "a.raw"):
        assert (pair / "back" / name).read_bytes() == (pair / name).read_bytes()


def test_naming_both_files_of_a_pair_makes_one_archive(pair: Path) -> None:
    assert compress(pair / "a.raw", pair / "a.mhd") == 0
    assert [path.name for path in pair.glob("*.mdz")] == ["a.mhd.mdz"]
    assert len(medzip.compress([pair / "a.mhd", pair / "a.raw"], pair / "out", preset="parametric")) == 1


def test_rm_removes_both_files_of_a_pair(pair: Path) -> None:
    assert compress("--rm", pair / "a.raw") == 0
    assert {path.name for path in pair.iterdir()} == {"a.mhd.mdz"}


def test_what_nothing_reads_is_taken_with_store_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.pdf").write_bytes(b"%PDF no scan" * 99)
    assert compress(tmp_path / "report.pdf") == UnsupportedInputError.exit_code
    assert "--store" in capsys.readouterr().err
    assert compress("--store", tmp_path / "report.pdf", "-o", tmp_path / "out") == 0
    medzip.decompress(tmp_path / "out" / "report.pdf.mdz")
    assert (tmp_path / "out" / "report.pdf").read_bytes() == (tmp_path / "report.pdf").read_bytes()
