"""The elements of all files of a series side by side, in columns with a row for each file (FORMAT.md, 20).

Elements that are equal in all files cost as much as in one, and numbers that count cost next to nothing. A file need not be
DICOM: what is none is one field.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from medzip.container import columns
from medzip.container.column_recipes import ColumnWriter
from medzip.container.columns import ROW_BYTES, Column
from medzip.container.sections import is_natural
from medzip.errors import UnsupportedArchiveError
from medzip.skeleton import plain
from medzip.skeleton.plain import LARGEST_LITERAL, LARGEST_OPAQUE, Blobs, damaged, unpack_run
from medzip.sources.dicom_fields import Field, fields
from medzip.volume import EncodedFrame, FileSkeleton, Interleaved, Literal, Segment, Skeleton, Voxels

LARGEST_VALUE = 1 << 20
MOST_FIELDS, MOST_BYTES = 1 << 21, 1 << 29
TRIAL_LEVEL = 3


@dataclass(frozen=True)
class _Frame:
    """An encoded frame whose recipe is the next row of column `key`."""

    key: int
    codec: str
    lengths: list[int]
    slices: list[Any] | None


Token = int | list[Any] | _Frame
"""What a file consists of: the next row of a column, an entry as it stands in templates, a frame."""


class _NotInColumnsError(Exception):
    """More fields than it pays to look at, or a segment that has no place in templates."""


def pack(skeleton: Skeleton) -> tuple[dict[str, Any], bytes, list[bytes]] | None:
    """The structure, the data of its columns, and the blobs; None where files are better kept one after another."""
    gathered = _Gathered()
    try:
        files = [list(gathered.tokens(file)) for file in skeleton.files]
    except _NotInColumnsError:
        return None
    templates = _Templates(gathered, files)
    made = [templates.make(tokens) for tokens in files]
    numbers: dict[str, int] = {}
    chosen = [numbers.setdefault(repr(template), len(numbers)) for template in made]
    writer = ColumnWriter()
    structure = {
        "names": writer.add([file.name.encode() for file in skeleton.files]),
        "files": [[number, len(list(run))] for number, run in groupby(chosen)],
        "templates": [made[chosen.index(number)] for number in range(len(numbers))],
        "fields": [[head, size, writer.add(rows)] for head, size, rows in templates.fields],
        "columns": writer.descriptions,
    }
    return structure, bytes(writer.data), templates.blobs.all


class _Gathered:
    """The fields of all files: `heads` and `rows` of each column, by number."""

    def __init__(self) -> None:
        self.heads: list[tuple[bytes, int]] = []
        self.rows: list[list[bytes]] = []
        self.opaque: set[int] = set()
        self._numbers: dict[object, int] = {}
        self._next_slice: dict[int, int] = {}
        self._count = self._bytes = 0

    def tokens(self, file: FileSkeleton) -> Iterator[Token]:
        for place, segment in enumerate(file.segments):
            yield from self._of(place, segment)

    def _of(self, place: int, segment: Segment) -> Iterator[Token]:
        match segment:
            case Voxels():
                yield self._run(segment)
            case Interleaved(runs, turns):
                yield [[self._run(run) for run in runs], list(turns)]
            case EncodedFrame(codec, recipe, lengths, voxels):
                slices = None if voxels is None else [voxels.volume, self._first(voxels), voxels.dtype]
                key = self._add(("recipe", codec), Field((), b"", 0, recipe))
                self.opaque.add(key)
                yield _Frame(key, codec, list(lengths), slices)
            case Literal(data, opaque):
                # The header comes first; what follows pixel data has its place there instead of a path.
                found = None if opaque or place else fields(data)
                for field in found or [Field((), b"", 0, data)]:
                    key = self._add((place if found is None else "header", opaque, *field[:3]), field)
                    if opaque:
                        self.opaque.add(key)
                    yield key
            case _:
                raise _NotInColumnsError

    def _add(self, name: object, field: Field) -> int:
        self._count += 1
        self._bytes += len(field.value) if len(field.value) <= LARGEST_VALUE else 0
        if self._count > MOST_FIELDS or self._bytes > MOST_BYTES:
            raise _NotInColumnsError
        key = self._numbers.setdefault(name, len(self.rows))
        if key == len(self.rows):
            self.heads.append((field.head, field.length_bytes))
            self.rows.append([])
        self.rows[key].append(field.value)
        return key

    def _run(self, run: Voxels) -> list[Any]:
        return [run.volume, self._first(run), run.count, run.dtype, run.planar]

    def _first(self, run: Voxels) -> int | None:
        """None for slices that follow those named before."""
        follows = run.first == self._next_slice.get(run.volume, 0)
        self._next_slice[run.volume] = run.first + run.count
        return None if follows else run.first


class _Templates:
    """Templates of files, the fields that they name ((head, bytes of the length, rows)), and blobs."""

    def __init__(self, gathered: _Gathered, files: list[list[Token]]) -> None:
        self.fields: list[tuple[bytes, int, list[bytes]]] = []
        self.blobs = Blobs()
        self._next_blob = 0
        self._gathered = gathered
        self._row: dict[int, int] = defaultdict(int)
        self._field: dict[object, int] = {}
        self._last = -1
        self._apart = {key for key in range(len(gathered.rows)) if self._pays_apart(key)}
        self._same = {key for key, rows in enumerate(gathered.rows) if all(row == rows[0] for row in rows)} - self._apart
        self._behind = self._chains(files)
        self._inside = set(self._behind.values())

    def make(self, tokens: list[Token]) -> list[Any]:
        """The template of the file whose turn it is."""
        self._last = -1
        return [entry for token in tokens for entry in self._entries(token)]

    def _entries(self, token: Token) -> Iterator[Any]:
        if isinstance(token, list):
            yield token
        elif isinstance(token, _Frame):
            *_, recipe = self._value(token.key)
            yield [token.codec, recipe, token.lengths, token.slices]
        elif token not in self._inside:
            yield from self._value(token)

    def _value(self, key: int) -> Iterator[Any]:
        """Entries for the next row of a column, the last one being its value's."""
        (head, size), rows = self._gathered.heads[key], self._gathered.rows[key]
        value = rows[self._row[key]]
        self._row[key] += 1
        if key in self._apart and len(value) > self._limit(key):
            if head or size:
                yield self._step(("head", key), b"", 0, head + _length(size, value))
            for start in range(0, len(value), plain.LARGEST_BLOB):
                number = self.blobs.add(value[start : start + plain.LARGEST_BLOB])
                yield [None if number == self._next_blob else number]
                self._next_blob = number + 1
        elif key in self._same:
            yield self._step(key, b"", 0, self._chain(key))
        else:
            yield self._step(key, head, size, value)

    def _step(self, name: object, head: bytes, size: int, value: bytes) -> int:
        """A field, as the distance from the one that would follow the field before; its next row is `value`."""
        number = self._field.setdefault(name, len(self.fields))
        if number == len(self.fields):
            self.fields.append((head, size, []))
        self.fields[number][2].append(value)
        step, self._last = number - self._last - 1, number
        return step

    def _chain(self, key: int) -> bytes:
        """The field of a column whose rows are equal, and of those that always follow it."""
        parts = list[bytes]()
        found: int | None = key
        while found is not None:
            (head, size), value = self._gathered.heads[found], self._gathered.rows[found][0]
            parts += [head, _length(size, value), value]
            found = self._behind.get(found)
        return b"".join(parts)

    def _limit(self, key: int) -> int:
        return LARGEST_OPAQUE if key in self._gathered.opaque else LARGEST_LITERAL

    def _pays_apart(self, key: int) -> bool:
        """Whether the long rows of a column are better off in chunks of their own: they are not alike."""
        rows = [row for row in self._gathered.rows[key] if len(row) > self._limit(key)]
        if not rows or key in self._gathered.opaque or len(rows) == 1 or max(map(len, rows)) > LARGEST_VALUE:
            return bool(rows)
        import zstandard

        compressor = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters.from_level(TRIAL_LEVEL, enable_ldm=True, window_log=27)
        )
        alone = sum(len(compressor.compress(row)) for row in rows)
        return 2 * len(compressor.compress(b"".join(rows))) > alone

    def _chains(self, files: list[list[Token]]) -> dict[int, int]:
        """From each column of equal rows to the one, of equal rows too, that always follows it and nothing else does."""
        behind, before = defaultdict[int, set[int | None]](set), defaultdict[int, set[int | None]](set)
        for tokens in files:
            keys = [token if isinstance(token, int) and token in self._same else None for token in tokens]
            for one, other in zip([None, *keys], [*keys, None], strict=True):
                if one is not None:
                    behind[one].add(other)
                if other is not None:
                    before[other].add(one)
        pairs = {one: next(iter(others)) for one, others in behind.items() if len(others) == 1}
        return {one: other for one, other in pairs.items() if other is not None and other != one and before[other] == {one}}


def _length(size: int, value: bytes) -> bytes:
    return len(value).to_bytes(abs(size), "little" if size > 0 else "big") if size else b""


def unpack(structure: dict[Any, Any], data: bytes, blobs: Mapping[int, bytes], name: str, memory_limit: int) -> Skeleton:
    """The skeleton back, as `medzip.skeleton.unpack` gives it; raises what that raises, before it takes too much memory."""
    table = columns.read(structure.get("columns"), data, f"{name}: SKEL", memory_limit)
    rebuilder = _Rebuilder(structure, table, blobs, name, memory_limit)
    found = [rebuilder.file(file, template) for file, template in rebuilder.files()]
    rebuilder.finish()
    return Skeleton(tuple(file for file in found if file is not None))


class _Rebuilder:
    """Follows templates; every field gives its rows in their order."""

    def __init__(
        self, structure: dict[Any, Any], table: list[Column], blobs: Mapping[int, bytes], name: str, memory_limit: int
    ) -> None:
        self._structure, self._table, self._blobs, self._name = structure, table, blobs, name
        self._left = self._limit = memory_limit
        self._fields = [self._field(entry) for entry in self._list(structure.get("fields"))]
        self._row = [0] * len(self._fields)
        self._next_slice: dict[int, int] = {}
        self._next_blob = 0
        self._last = -1

    def files(self) -> Iterator[tuple[str, list[Any]]]:
        """Name and template of each file."""
        templates, names = self._list(self._structure.get("templates")), self._column(self._structure.get("names"))
        place = 0
        for run in self._list(self._structure.get("files")):
            match run:
                case [number, count] if is_natural(number) and is_natural(count) and number < len(templates):
                    if count > len(names) - place:
                        raise damaged(self._name)
                    for _ in range(count):
                        yield self._text(names[place]), self._list(templates[number])
                        place += 1
                case _:
                    raise damaged(self._name)
        if place != len(names):
            raise damaged(self._name)

    def file(self, name: str, template: list[Any]) -> FileSkeleton | None:
        """A file; None where a blob of it is lost."""
        self._last = -1
        segments: list[Segment | None] = []
        literal: list[bytes] = []
        for entry in [*template, None]:
            if type(entry) is int:
                literal += self._value(entry)
                continue
            if literal:
                segments.append(Literal(b"".join(literal)))
                literal = []
            if entry is not None:
                self._allow(ROW_BYTES)
                segments.append(self._segment(entry))
        whole = [segment for segment in segments if segment is not None]
        return FileSkeleton(name, tuple(whole)) if len(whole) == len(segments) else None

    def finish(self) -> None:
        """Raises ArchiveDamagedError where rows are left over."""
        if any(row != len(column) for row, (_, _, column) in zip(self._row, self._fields, strict=True)):
            raise damaged(self._name)

    def _value(self, step: int) -> tuple[bytes, bytes, bytes]:
        """Head, length and value of the next row of the field that is so many steps ahead."""
        self._last += 1 + step
        if not 0 <= self._last < len(self._fields):
            raise damaged(self._name)
        head, size, column = self._fields[self._last]
        row = self._row[self._last]
        self._row[self._last] += 1
        if row >= len(column) or (size and len(column[row]) >> 8 * abs(size)):
            raise damaged(self._name)
        self._allow(ROW_BYTES + len(head) + len(column[row]))
        return head, _length(size, column[row]), column[row]

    def _segment(self, entry: Any) -> Segment | None:
        match entry:
            case [_]:
                return self._blob(entry)
            case [[_, *_] as runs, list(turns)] if len(runs) == len(turns) and all(map(is_natural, turns)):
                self._allow(len(runs) * ROW_BYTES)
                return Interleaved(tuple(map(self._run, runs)), tuple(turns))
            case [str(codec), packed, list(lengths), None | [_, _, _] as slices] if all(map(is_natural, lengths)):
                recipe = Literal(b"".join(self._value(packed))) if type(packed) is int else self._blob(packed)
                voxels = None if slices is None else self._run([*slices[:2], 1, *slices[2:], False])
                return None if recipe is None else EncodedFrame(codec, recipe.data, tuple(lengths), voxels)
        return self._run(entry)

    def _blob(self, entry: Any) -> Literal | None:
        """A blob, or the one behind that named before; None where it is lost."""
        match entry:
            case [None]:
                number = self._next_blob
            case [number] if is_natural(number):
                pass
            case _:
                raise damaged(self._name)
        self._next_blob = number + 1
        return Literal(self._blobs[number]) if number in self._blobs else None

    def _run(self, entry: Any) -> Voxels:
        match entry:
            case [volume, first, *others] if is_natural(volume):
                follows = self._next_slice.get(volume, 0)
                run = unpack_run([volume, follows if first is None else first, *others], self._name)
                self._next_slice[volume] = run.first + run.count
                return run
        raise damaged(self._name)

    def _field(self, entry: Any) -> tuple[bytes, int, Column]:
        match entry:
            case [bytes(head), 0 | 2 | 4 | -2 | -4 as size, number]:
                return head, int(size), self._column(number)
        raise damaged(self._name)

    def _column(self, number: Any) -> Column:
        if is_natural(number) and number < len(self._table):
            return self._table[number]
        raise damaged(self._name)

    def _list(self, found: Any) -> list[Any]:
        if isinstance(found, list):
            return found
        raise damaged(self._name)

    def _text(self, name: bytes) -> str:
        try:
            return name.decode()
        except UnicodeDecodeError as error:
            raise damaged(self._name) from error

    def _allow(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise UnsupportedArchiveError(
                f"{self._name}: SKEL: expected files of at most {self._limit} bytes besides voxels, found more; "
                "raise the memory limit"
            )
