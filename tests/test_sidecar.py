"""Parity beside archives: whatever is damaged within its reach comes back, and nothing else is ever put in an archive's place."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reedsolo import RSCodec

from medzip.container import sidecar
from medzip.container.parity import Encoder, fill
from medzip.container.sidecar import HEADER_SIZE, SECTOR, Layout, Sidecar, beside, make
from medzip.errors import ArchiveDamagedError

LENGTHS = [0, 1, SECTOR - 1, SECTOR, SECTOR + 1, 16 * SECTOR, 100 * SECTOR + 7, 500 * SECTOR + 4095]


def archive(folder: Path, length: int) -> tuple[Path, bytes]:
    data = random.Random(length).randbytes(length)
    path = folder / "x.mdz"
    path.write_bytes(data)
    make(path)
    return path, data


def damaged(data: bytes, sectors: list[int], seed: int = 0) -> bytes:
    """Each of the sectors lost, flipped in a bit, or written over."""
    rng, out = random.Random(seed), bytearray(data)
    for sector in sectors:
        end = min((sector + 1) * SECTOR, len(data))
        match rng.randrange(3):
            case 0:
                out[sector * SECTOR : end] = bytes(end - sector * SECTOR)
            case 1:
                out[rng.randrange(sector * SECTOR, end)] ^= 1 << rng.randrange(8)
            case 2:
                out[sector * SECTOR : end] = rng.randbytes(end - sector * SECTOR)
    return bytes(out)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 239), st.integers(1, 16), st.integers(1, 9), st.randoms(use_true_random=False))
def test_all_erasures_within_reach_come_back_and_the_code_is_that_of_reedsolo(
    data_rows: int, symbols: int, columns: int, rng: Any
) -> None:
    rows = np.frombuffer(rng.randbytes(data_rows * columns), np.uint8).reshape(data_rows, columns)
    encoder = Encoder(symbols, columns)
    for row in rows:
        encoder.add(row)
    whole: NDArray[np.uint8] = np.concatenate([rows, encoder.parity])
    codec = RSCodec(symbols, prim=0x11D)
    assert all(bytes(codec.encode(rows[:, column].tobytes())) == whole[:, column].tobytes() for column in range(columns))
    erased = sorted(rng.sample(range(len(whole)), rng.randint(0, min(symbols, len(whole)))))
    found = whole.copy()
    found[erased] = 7
    assert fill(found, symbols, erased)
    assert (found == whole).all()


def test_an_error_that_is_not_known_shows_while_parity_is_left() -> None:
    rows = np.random.default_rng(5).integers(0, 256, (20, 3), np.uint8)
    encoder = Encoder(4, 3)
    for row in rows:
        encoder.add(row)
    whole = np.concatenate([rows, encoder.parity])
    whole[5, 1] ^= 1
    assert not fill(whole, 4, [0, 1, 2])


@pytest.mark.parametrize("length", LENGTHS)
def test_as_many_sectors_as_promised_come_back(tmp_path: Path, length: int) -> None:
    path, data = archive(tmp_path, length)
    layout = Layout.of(length, hashlib.sha256(data).digest())
    assert beside(path).stat().st_size == layout.size
    # In a row, anywhere: neighbours belong to different groups.
    count = min(layout.parity * layout.groups, layout.sectors)
    first = random.Random(1).randrange(layout.sectors - count + 1)
    if length:
        path.write_bytes(damaged(data, list(range(first, first + count))))
    with Sidecar(path) as opened:
        assert opened.damage().repairable
        opened.repair()
    assert path.read_bytes() == data
    with Sidecar(path) as opened:
        assert opened.damage() == sidecar.Damage(0, 0, True)


def test_a_sector_too_many_is_refused_and_nothing_is_replaced(tmp_path: Path) -> None:
    path, data = archive(tmp_path, 500 * SECTOR)
    layout = Layout.of(len(data), b"")
    hurt = damaged(data, [row * layout.groups + 1 for row in range(layout.parity + 1)])
    path.write_bytes(hurt)
    with Sidecar(path) as opened:
        assert not opened.damage().repairable
        with pytest.raises(ArchiveDamagedError):
            opened.repair()
    assert path.read_bytes() == hurt
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.mdz", "x.mdz.par"}


@pytest.mark.parametrize("length", [3 * SECTOR, 300 * SECTOR + 100])
@pytest.mark.parametrize("change", ["cut", "empty end", "longer"])
def test_an_end_that_is_cut_off_or_too_long_comes_back(tmp_path: Path, length: int, change: str) -> None:
    path, data = archive(tmp_path, length)
    cut = len(data) - SECTOR - 50
    path.write_bytes({"cut": data[:cut], "empty end": data[:cut] + bytes(len(data) - cut), "longer": data + b"more"}[change])
    with Sidecar(path) as opened:
        assert opened.damage().archive > 0
        opened.repair()
    assert path.read_bytes() == data


@pytest.mark.parametrize("harm", ["first header", "last header", "first table", "last table", "a parity sector", "cut"])
def test_damage_of_the_sidecar_itself_is_seen_and_survived(tmp_path: Path, harm: str) -> None:
    path, data = archive(tmp_path, 100 * SECTOR)
    layout = Layout.of(len(data), b"")
    parity = bytearray(beside(path).read_bytes())
    places = {"first header": 12, "last header": -20, "first table": HEADER_SIZE + 41, "last table": -HEADER_SIZE - 41}
    places["a parity sector"] = HEADER_SIZE + layout.table_bytes + SECTOR + 5
    if harm == "cut":
        del parity[HEADER_SIZE + layout.table_bytes + 4 * SECTOR :]
    else:
        parity[places[harm]] ^= 4
    beside(path).write_bytes(parity)
    path.write_bytes(damaged(data, [3, 97]))
    with Sidecar(path) as opened:
        found = opened.damage()
        assert (found.archive, found.repairable) == (2, True)
        assert found.sidecar > 0
        opened.repair()
    assert path.read_bytes() == data


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_flip_anywhere_in_the_sidecar_never_spoils_an_archive(tmp_path_factory: Any, place: int, value: int) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path, data = archive(folder, 20 * SECTOR)
    parity = bytearray(beside(path).read_bytes())
    parity[place * len(parity) // 2001] ^= value
    beside(path).write_bytes(parity)
    path.write_bytes(damaged(data, [7]))
    with Sidecar(path) as opened:
        opened.repair()
    assert path.read_bytes() == data


@pytest.mark.parametrize("content", [b"", b"\x89MDZP", bytes(500), b"x" * 100_000])
def test_what_is_no_sidecar_is_refused(tmp_path: Path, content: bytes) -> None:
    path, _ = archive(tmp_path, 5000)
    beside(path).write_bytes(content)
    with pytest.raises(ArchiveDamagedError, match="parity"):
        Sidecar(path)


def test_the_sidecar_of_another_archive_repairs_nothing(tmp_path: Path) -> None:
    path, _ = archive(tmp_path, 20 * SECTOR)
    other = random.Random(9).randbytes(20 * SECTOR)
    path.write_bytes(other)
    with Sidecar(path) as opened, pytest.raises(ArchiveDamagedError):
        opened.repair()
    assert path.read_bytes() == other


def test_headers_that_claim_the_impossible_are_refused() -> None:
    good = Layout.of(1 << 20, bytes(32))
    assert Layout.read(good.header()) == good
    for bad in (Layout(1 << 62, bytes(32), 1, 16), Layout(1 << 20, bytes(32), 0, 16), Layout(1 << 20, bytes(32), 2, 200)):
        assert Layout.read(bad.header()) is None


def test_sectors_that_the_disk_cannot_read_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = archive(tmp_path, 50 * SECTOR)
    read = sidecar._read

    def failing(file: BinaryIO, place: int, length: int) -> bytes:
        if file.name == str(path) and place in (8 * SECTOR, 9 * SECTOR):
            return b""
        return read(file, place, length)

    monkeypatch.setattr(sidecar, "_read", failing)
    with Sidecar(path) as opened:
        assert opened.repair() == 2
    assert path.read_bytes() == data
