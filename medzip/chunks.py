"""One chunk of a volume: coded in whatever way is smallest, and decoded with proof.

A chunk is a run of planes, independent of all others. Kinds: `model` (an entropy model, perhaps over a base layer) and the
codecs of `medzip.chunk_kinds`. The header says which, and holds the CRC-32C of the decoded samples as little endian.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import base_layer, chunk_kinds, levels, scaled, stacks
from medzip.chunk_kinds.jpeg_xl import JpegXl
from medzip.coder.range_coder import Decoder, Encoder
from medzip.container import cbor
from medzip.container.checksum import crc32c
from medzip.container.sections import is_natural
from medzip.entropy_model.contract import Chunk, ChunkHeader, EntropyModel, Requirements
from medzip.entropy_model.registry import digests_for, entropy_model, kind_of
from medzip.errors import ArchiveDamagedError, ModelMismatchError, UnsupportedArchiveError, UnsupportedInputError, UsageError
from medzip.presets import Preset

MODEL = "model"
BYTE_KINDS = ("zstd", "stored")
CHUNK_SAMPLES = 1 << 26
"""A chunk of more planes than one stack holds no more samples than this."""
LARGE_VOLUME = 1 << 20
"""From so many samples on, a volume has two chunks at least, so that two cores can share it; costs 0.04 to 0.6 % of the bytes."""
NOISY_BITS = 2
"""More bits a sample than this hold noise, not drawings."""
LESSER_EFFORT = 3
PART = (4, 96, 96)
"""So much of a chunk is coded with each of several weights, to choose among them."""
SMALL_CHUNK = 1 << 16
"""Chunks of fewer samples are coded in all ways: that costs nothing."""
LARGEST_STACK = 1 << 29
"""Bytes of the samples of a stack, at most: a reader's limit for a chunk is far above it."""

Samples = NDArray[np.generic]


@dataclass(frozen=True)
class CodedChunk:
    """`header` without volume and place, `payload`, and the base layer's bytes where there is one."""

    header: dict[str, Any]
    payload: bytes
    base: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.payload) + len(self.base or b"") + len(cbor.encode(self.header))


class ChunkCoder:
    """Codes chunks as a preset says, with the entropy model and its weights chosen once."""

    def __init__(self, preset: Preset, models: str, weights: str | None = None) -> None:
        if weights is not None and preset.in_floats == kind_of(weights):
            preset = replace(preset, model=preset.in_floats, weights=preset.in_floats)
        self._preset = preset
        allowed = digests_for(preset.model, preset.weights, models, weights)
        digests = allowed if preset.tries_weights else allowed[:1]
        self.weights = tuple(digest for digest in digests if digest is not None)
        """SHA-256 (hex) of all weights that chunks may be coded with."""
        self._models: list[tuple[str | None, EntropyModel]] = [(d, entropy_model(preset.model, d)) for d in digests]
        if weights is not None and not self.weights:
            raise UsageError(f"--model {weights}: expected a preset with a model that has weights, found one without")

    def requirements(self) -> Requirements:
        """What a decoder needs for chunks of kind `model`, whichever of the weights they are coded with."""
        each = [model.requirements() for _, model in self._models]
        portable = self._preset.base_layer == "none" or base_layer.base_layer(self._preset.base_layer).portable
        research = any(one.licence_class == "research" for one in each)
        return replace(
            each[0], portable=portable and all(one.portable for one in each), licence_class="research" if research else "open"
        )

    def runs(self, planes: Samples, name: str) -> list[tuple[int, int]]:
        """(first plane, number of planes) of every chunk of a volume's planes; `name` is the archive's.

        Raises UnsupportedInputError where three planes are more than a decoder can be asked to hold at once.
        """
        plane = planes[:1]
        if stacks.PLANES_PER_STACK * plane.nbytes > LARGEST_STACK:
            raise UnsupportedInputError(
                f"{name}: expected slices of at most {LARGEST_STACK // stacks.PLANES_PER_STACK} bytes, found {plane.nbytes}; "
                "divide the scan"
            )
        most = min(self._preset.planes_per_chunk, CHUNK_SAMPLES // plane.size)
        return stacks.chunks(len(planes), most, 2 if planes.size >= LARGE_VOLUME else 1)

    def encode(self, planes: Samples) -> CodedChunk:
        """The smallest of all ways to code `planes` (planes, rows, columns) that take its dtype.

        A preset that is not thorough tries the other ways only where the model's size looks bad beside lossless JPEG XL of the
        middle plane, or beside the samples themselves.
        """
        crc = samples_crc(planes)
        by_model = self._as_integers(planes, crc) if planes.dtype.kind == "f" else None
        if np.issubdtype(planes.dtype, np.integer):
            if (found := levels.ranked(planes)) is not None:  # type: ignore[arg-type]  # checked in the line above
                of_chunk, ranks = found
                coded = self.encode(ranks)
                return replace(coded, header={**coded.header, "crc": crc, "levels": of_chunk.header(ranks.dtype)})
            with contextlib.suppress(UnsupportedInputError):  # other kinds take everything
                by_model = self._by_model(planes, crc)
        if by_model is not None and not self._preset.thorough and _looks_good(by_model, planes):
            return by_model
        others = (
            CodedChunk({"kind": kind.name, "crc": crc}, kind.encode(planes))
            for kind in chunk_kinds.KINDS.values()
            if kind.accepts(planes.dtype)
        )
        return min((*([by_model] if by_model is not None else []), *others), key=lambda coded: coded.size)

    def _as_integers(self, planes: Samples, crc: int) -> CodedChunk | None:
        """Floats that are integers times a slope plus an offset, coded as those; None for others."""
        found = scaled.scaled(planes)
        if found is None:
            return None
        scaling, integers = found
        coded = self.encode(integers)
        return replace(coded, header={**coded.header, "crc": crc, "floats": scaling.header(integers.dtype)})

    def encode_bytes(self, data: Samples) -> CodedChunk:
        """Bytes that are no samples, uint8 (1, 1, n): no model and no image codec has anything to say about them."""
        crc = samples_crc(data)
        kinds = (chunk_kinds.KINDS[name] for name in BYTE_KINDS)
        return min((CodedChunk({"kind": kind.name, "crc": crc}, kind.encode(data)) for kind in kinds), key=lambda c: c.size)

    def _by_model(self, planes: Samples, crc: int) -> CodedChunk:
        integers: NDArray[np.integer[Any]] = planes  # type: ignore[assignment]  # checked by the caller
        payload, seen = _encode_base(self._preset.base_layer, integers)
        digest, model = self._cheapest_model(integers)
        coder = Encoder()
        side = model.encode(Chunk(integers, seen, self._preset.adapts), coder)
        header = {"kind": MODEL, "crc": crc, "model": model.name, "side": side}
        if digest is not None:
            header["weights"] = bytes.fromhex(digest)
        if seen is not None:
            header["base"] = {"layer": self._preset.base_layer, "crc": samples_crc(seen)}
        return CodedChunk(header, coder.finish(), payload)

    def _cheapest_model(self, planes: NDArray[np.integer[Any]]) -> tuple[str | None, EntropyModel]:
        """The model whose weights code a part of the chunk in the fewest bytes, the first of equals."""
        if len(self._models) == 1:
            return self._models[0]
        part = _part(planes)

        def size(candidate: tuple[str | None, EntropyModel]) -> int:
            coder = Encoder()
            candidate[1].encode(Chunk(part), coder)
            return len(coder.finish())

        return min(self._models, key=size)


def _part(planes: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The middle of a chunk, on which weights are tried."""
    starts = [max((length - limit) // 2, 0) for length, limit in zip(planes.shape, PART, strict=True)]
    z, y, x = (slice(start, start + limit) for start, limit in zip(starts, PART, strict=True))
    return planes[z, y, x]


def _looks_good(coded: CodedChunk, planes: Samples) -> bool:
    """Whether a chunk's model is worth no second thought: smaller than lossless JPEG XL by the measure of the middle plane.

    A lesser effort at a tenth of the time is enough where samples take some bits: no effort makes noise much smaller.
    """
    jpeg_xl = JpegXl()
    if coded.size >= planes.nbytes or planes.size < SMALL_CHUNK or not jpeg_xl.accepts(planes.dtype):
        return False
    middle = planes[len(planes) // 2 : len(planes) // 2 + 1]
    if 8 * coded.size > NOISY_BITS * planes.size and coded.size < 0.95 * len(JpegXl(LESSER_EFFORT).encode(middle)) * len(planes):
        return True
    return coded.size < len(jpeg_xl.encode(middle)) * len(planes)


def in_order(work: Callable[[Any], Any], items: Sequence[Any], jobs: int) -> Iterator[Any]:
    """`map`, with `jobs` items worked on at a time, and at most twice as many results in memory."""
    if jobs == 1:
        yield from map(work, items)  # no thread, so that Ctrl-C need not wait for one
        return
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = [pool.submit(work, item) for item in items[: 2 * jobs]]
        for following in [*items[2 * jobs :], *[None] * len(waiting)]:
            future = waiting.pop(0)
            if following is not None:
                waiting.append(pool.submit(work, following))
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def checked_header(header: dict[str, Any], where: str) -> dict[str, Any]:
    """The header, after all that decoding relies on was found there; `side` is for the model to check.

    Raises ArchiveDamagedError; `where` names archive and chunk.
    """
    match header:
        case {"kind": str(kind), "crc": int()}:
            good = kind != MODEL or _is_model_header(header)
        case _:
            good = False
    if "blob" in header:
        good = (
            good and not {"floats", "levels"} & header.keys() and is_natural(header["blob"]) and is_natural(header.get("bytes"))
        )
    if not good:
        raise ArchiveDamagedError(f"{where}: expected a chunk header, found something else; restore the archive from a copy")
    return header


def _is_model_header(header: dict[str, Any]) -> bool:
    base = header.get("base", {"layer": "", "section": 0, "crc": 0})
    return (
        isinstance(header.get("model"), str)
        and isinstance(header.get("side"), dict)
        and isinstance(header.get("weights", b""), bytes)
        and isinstance(base, dict)
        and isinstance(base.get("layer"), str)
        and is_natural(base.get("section"))
        and is_natural(base.get("crc"))
    )


def decode_chunk(
    header: dict[str, Any], payload: bytes, base: bytes | None, shape: tuple[int, int, int], dtype: np.dtype[Any], where: str
) -> Samples:
    """The samples of a chunk with a checked header, (planes, rows, columns), after their CRC was found good.

    Raises ArchiveDamagedError where the chunk is not what an encoder writes, ModelMismatchError where this machine computes
    other numbers than the one that encoded, ModelMissingError where weights are not here. `where` names archive and chunk.
    """
    try:
        coded, as_stored = _representation(header, dtype)
        return _decode(header, payload, base, shape, coded, as_stored)
    except (ArchiveDamagedError, ModelMismatchError) as error:
        raise type(error)(f"{where}: {error}") from error


def _representation(header: dict[str, Any], dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Callable[[Any], Samples]]:
    """The dtype of what a chunk codes, and what turns that into the samples of `dtype` that are stored in the file."""
    if "floats" in header:
        scaling, integer = scaled.from_header(header["floats"], dtype)
        coded, as_integers = _of_ranks(header, integer)
        return coded, lambda samples: scaling.floats(as_integers(samples), dtype)  # type: ignore[arg-type]  # integers, as `coded` says
    return _of_ranks(header, dtype)


def _of_ranks(header: dict[str, Any], dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Callable[[Any], Samples]]:
    if "levels" not in header:
        return dtype, lambda samples: samples
    of_chunk, coded = levels.from_header(header["levels"], dtype)
    return coded, lambda ranks: of_chunk.samples(ranks, dtype)


def _decode(
    header: dict[str, Any],
    payload: bytes,
    base: bytes | None,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    as_stored: Callable[[Any], Samples],
) -> Samples:
    """The samples `as_stored` in the file, after their CRC was found good; `dtype` is that of what the chunk codes."""
    if header["kind"] == MODEL:
        return _decode_by_model(header, payload, base, shape, dtype, as_stored)
    kind = chunk_kinds.KINDS.get(header["kind"])
    if kind is None:
        raise UnsupportedArchiveError(f"expected a known kind of chunk, found {header['kind']!r}; install a newer medzip")
    if not kind.accepts(dtype):
        raise ArchiveDamagedError(f"expected a kind of chunk for {dtype}, found {header['kind']!r}; restore it from a copy")
    return _proved(as_stored(kind.decode(payload, shape, dtype)), header)


def _decode_by_model(
    header: dict[str, Any],
    payload: bytes,
    base: bytes | None,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    as_stored: Callable[[Any], Samples],
) -> Samples:
    if dtype.kind not in "iu":
        raise ArchiveDamagedError(f"expected integers for an entropy model, found {dtype}; restore the archive from a copy")
    model = entropy_model(header["model"], header["weights"].hex() if "weights" in header else None)
    seen = None
    if "base" in header:
        seen = _decode_base(header["base"]["layer"], base, shape, dtype)
        if samples_crc(seen) != header["base"]["crc"]:
            raise _mismatch("the base layer")
    try:
        samples = model.decode(ChunkHeader(shape, dtype.str, header["side"], seen), Decoder(payload))
        return _proved(as_stored(samples), header)
    except (ArchiveDamagedError, UnsupportedInputError) as error:
        # The payload's own CRC was good, so a float model that goes astray tells of this machine, not of damage.
        if model.requirements().portable:
            raise ArchiveDamagedError(str(error)) from error
        raise _mismatch("the model") from error


def _mismatch(what: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"expected {what} to compute the same numbers as where the archive was made, found others; decode it on a "
        "machine with the same CPU instructions and versions (`medzip info` and `medzip doctor` name them)"
    )


def _proved(samples: Samples, header: dict[str, Any]) -> Samples:
    found = samples_crc(samples)
    if found != header["crc"]:
        raise ArchiveDamagedError(f"expected samples of CRC {header['crc']}, found {found}; restore the archive from a copy")
    return samples


def samples_crc(samples: Samples) -> int:
    """CRC-32C of samples, C order, as little endian."""
    return crc32c(np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes())


def _encode_base(name: str, planes: NDArray[np.integer[Any]]) -> tuple[bytes | None, NDArray[np.integer[Any]] | None]:
    """Base layer of all stacks (u32 length and payload of each), and what the decoder will see, (planes, rows, columns)."""
    if name == "none":
        return None, None
    layer = base_layer.base_layer(name)
    payloads, seen = zip(*(layer.encode(stack) for stack in stacks.stacks(planes)), strict=True)
    data = b"".join(struct.pack("<I", len(payload)) + payload for payload in payloads)
    return data, stacks.unstack(np.stack(seen), len(planes))


def _decode_base(name: str, data: bytes | None, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> NDArray[np.integer[Any]]:
    layer, seen, position = base_layer.base_layer(name), [], 0
    for _ in range(-(-shape[0] // stacks.PLANES_PER_STACK)):
        if data is None or len(data) < position + 4:
            raise ArchiveDamagedError("expected a base layer for each stack, found less; restore the archive from a copy")
        length = struct.unpack_from("<I", data, position)[0]
        seen.append(layer.decode(data[position + 4 : position + 4 + length], (stacks.PLANES_PER_STACK, *shape[1:]), dtype))
        position += 4 + length
    return stacks.unstack(np.stack(seen), shape[0])
