"""Damaged archives: repaired, refused or salvaged, never silently wrong."""

from __future__ import annotations

import contextlib
import io
import random
import tracemalloc
from pathlib import Path

import pytest
from test_container import EXAMPLE, Content, archive_of, content_of, damaged, read

from medzip.container import parity, sections
from medzip.container.reader import ArchiveReader
from medzip.container.sections import CRC, HEADER_SIZE, TAIL_SIZE, Section
from medzip.errors import ArchiveDamagedError, MedzipError, TruncatedArchiveError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def example(folder: Path) -> bytes:
    return archive_of(EXAMPLE, folder)


class TestDamage:
    def test_every_truncation_is_called_one(self, example: bytes) -> None:
        for length in range(len(example)):
            with pytest.raises(TruncatedArchiveError):
                read(example[:length])

    def test_every_flipped_bit_is_repaired_or_refused(self, example: bytes) -> None:
        names = set()
        for bit in range(8 * len(example)):
            changed = bytearray(example)
            changed[bit // 8] ^= 1 << bit % 8
            try:
                content, repaired = read(bytes(changed))
            except ArchiveDamagedError as error:
                names.add(type(error))
            else:
                assert content == EXAMPLE
                assert len(repaired) == 1
                names.add(repaired[0])
        assert names == {ArchiveDamagedError, "magic", "HEAD", "FILE", "SKEL", "INDX", "PARI", "TAIL"}

    def test_any_corruption_is_a_medzip_error_within_the_memory_limit(self, example: bytes) -> None:
        dice, limit = random.Random(1), 1 << 20
        read(example, limit)
        tracemalloc.start()
        for _ in range(1000):
            changed = bytearray(example)
            for _ in range(dice.randrange(1, 20)):
                at = dice.randrange(len(changed))
                changed[at : at + dice.randrange(2)] = dice.randbytes(dice.randrange(3))
            with contextlib.suppress(MedzipError):
                assert read(bytes(changed), limit)[0] == EXAMPLE
        assert tracemalloc.get_traced_memory()[1] < limit
        tracemalloc.stop()

    def test_contents_with_good_checksums_are_not_believed_either(self, example: bytes) -> None:
        """Somebody can compute CRCs: every payload is changed under a good CRC."""
        with ArchiveReader(io.BytesIO(example)) as reader:
            parts = reader.sections
        dice = random.Random(2)
        for _ in range(1000):
            changed, section = bytearray(example), dice.choice(parts)
            for _ in range(dice.randrange(1, 4)):
                changed[section.payload + dice.randrange(section.length)] = dice.randrange(256)
            end = section.end - CRC.size
            changed[end : section.end] = CRC.pack(sections.crc32c(bytes(changed[section.payload : end])))
            with contextlib.suppress(MedzipError):
                read(bytes(changed))

    @pytest.mark.parametrize("length", [64, 8])
    def test_a_burst_in_what_all_hangs_on_is_repaired(self, example: bytes, length: int) -> None:
        with ArchiveReader(io.BytesIO(example)) as reader:
            front, index = reader.sections[2].end, reader.sections[-1]
        places = [*range(0, front - length, 7), *range(index.offset, index.end - 4, 7)]
        for at in places:
            changed = bytearray(example)
            changed[at : at + length] = (byte ^ 0xFF for byte in changed[at : at + length])
            content, repaired = read(bytes(changed))
            assert content == EXAMPLE
            assert repaired

    def test_a_large_skeleton_survives_the_loss_of_a_disk_block(self, folder: Path) -> None:
        content: Content = ({}, [], random.Random(3).randbytes(130_000), [], [])
        changed = bytearray(archive_of(content, folder))
        changed[50_000:54_096] = bytes(4096)
        assert read(bytes(changed)) == (content, ["SKEL"])

    def test_more_than_parity_can_repair_is_refused(self, example: bytes) -> None:
        changed = bytearray(example)
        changed[:100] = (byte ^ 0xFF for byte in changed[:100])
        with pytest.raises(ArchiveDamagedError):
            read(bytes(changed))

    @pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK", bytes(40)])
    def test_other_files_are_told_apart(self, data: bytes) -> None:
        with pytest.raises(ArchiveDamagedError, match="another kind of file"):
            read(data)

    def test_bytes_behind_the_end_are_damage(self, example: bytes) -> None:
        with pytest.raises(ArchiveDamagedError, match="nothing more"):
            read(example + b"\0")
        with pytest.raises(ArchiveDamagedError):
            read(example + example)

    def test_parity_is_that_of_the_reed_solomon_library(self) -> None:
        import reedsolo

        data = random.Random(4).randbytes(1000)
        columns = parity.codewords(len(data))
        encoded = parity.encode(data)
        for column in range(columns):
            message = data[column::columns].ljust(-(-len(data) // columns), b"\0")
            assert reedsolo.RSCodec(16).encode(message)[len(message) :] == encoded[column::columns]


class TestSalvage:
    def salvage(self, data: bytes) -> tuple[list[bytes], list[str]]:
        with ArchiveReader.salvage(io.BytesIO(data)) as reader:
            return [reader.chunk_payload(i) for i in range(len(reader.chunks))], reader.lost

    def parts(self, data: bytes) -> list[Section]:
        with ArchiveReader(io.BytesIO(data)) as reader:
            return reader.sections

    def test_an_intact_archive_loses_nothing(self, example: bytes) -> None:
        with ArchiveReader.salvage(io.BytesIO(example)) as reader:
            assert (content_of(reader), reader.lost) == (EXAMPLE, [])

    def test_a_damaged_chunk_is_named_and_the_other_comes_back(self, example: bytes) -> None:
        assert self.salvage(damaged(example, self.parts(example)[4])) == ([b"\1" * 9], ["volume 0, slices 0 to 31"])

    def test_without_its_end_an_archive_gives_the_chunks_before(self, example: bytes) -> None:
        end = self.parts(example)[4].end
        payloads, lost = self.salvage(example[: end + 30])
        assert payloads == [bytes(9)]
        assert lost == [f"bytes {end} to {end + 29}", f"everything from byte {end + 30} on"]

    def test_a_damaged_header_and_no_tail_cost_one_chunk(self, example: bytes) -> None:
        chunk = self.parts(example)[4]
        data = bytearray(example[:-TAIL_SIZE] + bytes(TAIL_SIZE))
        data[chunk.offset + 9] ^= 1
        assert self.salvage(bytes(data)) == ([b"\1" * 9], [f"bytes {chunk.offset} to {chunk.end - 1}"])

    def test_bytes_behind_the_end_do_no_harm(self, example: bytes) -> None:
        assert self.salvage(example + b"padding") == ([bytes(9), b"\1" * 9], [])

    def test_a_lost_skeleton_or_base_leaves_the_chunks(self, example: bytes) -> None:
        parts = self.parts(example)
        data = example[:-TAIL_SIZE] + bytes(TAIL_SIZE)
        data = damaged(data, parts[-1], -HEADER_SIZE)
        with ArchiveReader.salvage(io.BytesIO(damaged(damaged(data, parts[2]), parts[3], 5))) as reader:
            assert reader.lost[1:] == ["base layer 0", "SKEL"]
            assert len(reader.chunks) == 2
            for call in (lambda: reader.skeleton, lambda: reader.base_payload(0)):
                with pytest.raises(ArchiveDamagedError):
                    call()

    def test_an_archive_inside_a_damaged_chunk_is_not_taken_for_its_own(self, example: bytes, folder: Path) -> None:
        stored = ({"volume": None, "first": None, "count": None}, example)
        data = archive_of(({}, [], b"", [], [EXAMPLE[4][0], stored, EXAMPLE[4][1]]), folder)
        chunk = self.parts(data)[4]
        changed = bytearray(data[:-TAIL_SIZE])
        changed[chunk.offset] ^= 1
        payloads, lost = self.salvage(bytes(changed))
        assert payloads == [bytes(9)]
        assert lost[1].endswith(f"to {len(changed) - 1}")

    def test_without_head_there_is_nothing_to_salvage(self, example: bytes) -> None:
        for data in (b"", example[:50], bytes(1000), example[60:]):
            with pytest.raises(ArchiveDamagedError):
                self.salvage(data)

    def test_any_corruption_salvages_only_what_was_written(self, example: bytes) -> None:
        dice = random.Random(5)
        for _ in range(300):
            changed = bytearray(example)
            for _ in range(dice.randrange(1, 6)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            try:
                payloads, lost = self.salvage(bytes(changed[: dice.randrange(200, 2 * len(changed))]))
            except ArchiveDamagedError:
                continue
            assert set(payloads) <= {bytes(9), b"\1" * 9}
            assert lost or len(payloads) == 2
