"""Columns of byte strings come back whatever they hold, small where they count, and damaged ones are refused."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medzip.container import cbor, columns, file_table, packed
from medzip.container.column_recipes import ColumnWriter
from medzip.errors import ArchiveDamagedError, MedzipError, UnsupportedArchiveError

LIMIT = 1 << 24


def written(*tables: list[bytes]) -> tuple[list[list[Any]], bytes, list[int]]:
    writer = ColumnWriter()
    numbers = [writer.add(rows) for rows in tables]
    return writer.descriptions, bytes(writer.data), numbers


def read(descriptions: Any, data: bytes, limit: int = LIMIT) -> list[list[bytes]]:
    return columns.read(descriptions, data, "archive", limit)


NUMBERS = st.from_regex(rb"-?[0-9]{1,4}(\.[0-9]{0,3})?", fullmatch=True)
TEXTS = st.lists(st.one_of(NUMBERS, st.sampled_from([b"\\", b" ", b"\0", b"a", b"-", b"."])), max_size=5).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.one_of(TEXTS, st.binary(max_size=6)), min_size=1, max_size=8), min_size=1, max_size=3))
def test_any_columns_come_back(tables: list[list[bytes]]) -> None:
    descriptions, data, numbers = written(*tables)
    found = read(descriptions, data)
    assert [found[number] for number in numbers] == tables


@pytest.mark.parametrize(
    "text",
    ["{0}", "{0:04}", "-{0}.5", "{1:.1f}", "{1:g}", "1.2.3.{0}", "IM{0:06}.dcm", "a\\{0}\\{1:.2f}", "{0} ", "L{1}", "{2}"],
)
def test_what_counts_costs_nothing_for_each_row(text: str) -> None:
    rows = [text.format(i, 0.25 * i + 3, 7 - 3 * i).encode() for i in range(1, 900)]
    rows = [row + b" " * (len(row) % 2) if text.endswith(" ") else row for row in rows]
    descriptions, data, numbers = written(rows)
    assert read(descriptions, data)[numbers[0]] == rows
    assert len(packed.pack(descriptions, data)) < 120


def test_rows_that_are_joined_of_thousands_of_empty_ones_are_counted_before_they_are_made() -> None:
    """A few kilobytes could ask for gigabytes and minutes."""
    with pytest.raises(UnsupportedArchiveError):
        read([["same", 100_000, 0], ["joined", [0] * 10_000, [b""] * 10_001]], b"", 1 << 29)


def test_a_file_table_is_read_in_time_that_grows_with_it() -> None:
    records = [{"name": f"{i}", "bytes": i, "sha256": i.to_bytes(32)} for i in range(50_000)]
    table = file_table._in_columns(records)
    began = time.process_time()
    assert file_table.decode(table, "", 1 << 31) == records
    assert time.process_time() - began < 5  # 11 seconds where each digest was cut from a copy of all that follow


def test_random_digits_cost_their_entropy_and_equal_columns_are_written_once() -> None:
    chance = random.Random(0)
    numbers = [chance.randrange(10**37, 10**38) for _ in range(500)]
    uids = [f"2.25.{number}".encode() for number in numbers]
    descriptions, data, _ = written(uids, [b"CT." + uid + b".dcm" for uid in uids], [str(n).encode() for n in numbers])
    assert len(data) == 16 * 500
    assert sum(description[0] == "numbers" for description in descriptions) == 1


SAME, BYTES = ["same", 2, 1], ["bytes", 2, None]
WRONG: dict[str, tuple[Any, bytes]] = {
    "no list": ({}, b""),
    "an unknown kind": ([["new", 2, 1]], b"a"),
    "data that are missing": ([["same", 2, 2]], b"a"),
    "data left over": ([SAME], b"ab"),
    "a number without an end": ([BYTES], b"\xff" * 20),
    "bytes beyond the end": ([BYTES], b"\x01\x02ab"),
    "a column that comes later": ([["padded", 0, 32]], b""),
    "a row that is not there": ([SAME, ["pick", 2, 0]], b"a\x00\x02"),
    "columns of other lengths": ([SAME, ["same", 3, 0], ["joined", [0, 1], [b"", b"", b""]]], b"a"),
    "too few texts": ([SAME, ["joined", [0], [b""]]], b"a"),
    "texts that are none": ([SAME, ["joined", [0], ["", ""]]], b"a"),
    "a pad that is no byte": ([SAME, ["padded", 0, 256]], b"a"),
    "a start that is no number": ([["numbers", 2, 1, 0, False, [b"x"], 0]], b""),
    "more starts than rows": ([["numbers", 1, 1, 0, False, [b"1", b"1"], 0]], b""),
    "a rank that no encoder uses": ([["numbers", 9, 1, 0, False, [b"1", b"1", b"1"], 0]], b""),
    "numbers too long": ([["numbers", 2, 65, 0, False, [], 0]], b""),
    "rows below zero": ([["same", -1, 1]], b"a"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_other_descriptions_are_damage(wrong: str) -> None:
    with pytest.raises(ArchiveDamagedError):
        read(*WRONG[wrong])


DOUBLING = [["same", 1 << 10, 1], *(["joined", [n, n], [b"", b"", b""]] for n in range(40))]
BOMBS: dict[str, tuple[Any, bytes]] = {
    "rows": ([["same", 1 << 60, 0]], b""),
    "doubling": (DOUBLING, b"a"),
    "numbers": ([["numbers", 1 << 40, 1, 0, False, [], 0]], b""),
    "padding": ([["same", 1000, 1], *(["padded", n, 0] for n in range(1 << 17))], b"a"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_they_take_memory(bomb: str) -> None:
    with pytest.raises(UnsupportedArchiveError):
        read(*BOMBS[bomb])


def records(count: int, **others: Any) -> list[dict[str, Any]]:
    return [{"name": f"a/{i}.dcm", "bytes": 500 + i, "sha256": bytes([i % 256]) * 32, **others} for i in range(count)]


@pytest.mark.parametrize("others", [{}, {"original": {"bytes": 1, "sha256": b"x"}}, {"mode": None}, {"time": 1.5}, {"text": "ä"}])
def test_a_file_table_comes_back_with_all_its_keys(others: dict[str, Any]) -> None:
    table = records(300, **others)
    table[7].pop(next(iter(others), "bytes"))
    payload = file_table.encode(table)
    assert len(payload) < 300 * 34 + 400
    assert file_table.decode(cbor.decode(payload, "FILE", LIMIT), "archive", LIMIT) == table


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_file_table_is_damage_or_another_table(data: st.DataObject) -> None:
    encoded = file_table.encode(records(9))
    value = cbor.decode(encoded, "FILE", LIMIT)
    structure, columns_data = packed.unpack(value["table"], "FILE", LIMIT)
    key = data.draw(st.sampled_from(["text", "numbers", "items", "columns"]))
    structure[key] = data.draw(
        st.sampled_from([None, [], {}, {"name": 99}, {"name": -1}, {"bytes": 0}, {1: 0}, {"sha256": 0}, 5])
    )
    value["table"] = packed.pack(structure, columns_data)
    with contextlib.suppress(MedzipError):
        assert len(file_table.decode(value, "archive", LIMIT)) == 9
