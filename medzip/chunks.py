"""One chunk of a volume: coded in whatever way is smallest, and decoded with proof.

A chunk is a run of planes, independent of all others. Kinds: `model` (an entropy model, perhaps over a base layer) and the
codecs of `medzip.chunk_kinds`. The header says which, and holds the CRC-32C of the decoded samples as little endian.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medzip import base_layer, chunk_kinds, stacks
from medzip.coder.range_coder import Decoder, Encoder
from medzip.container import cbor
from medzip.container.checksum import crc32c
from medzip.entropy_model.contract import Chunk, ChunkHeader, EntropyModel, Requirements
from medzip.entropy_model.registry import digest_for, entropy_model
from medzip.errors import ArchiveDamagedError, ModelMismatchError, UnsupportedInputError
from medzip.presets import Preset

MODEL = "model"
BYTE_KINDS = ("zstd", "stored")
LARGEST_CHUNK = 1 << 31
"""Samples of a chunk, at most: a reader allocates no more for one."""

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
        self._preset = preset
        self._digest = digest_for(preset.model, models, weights)
        self._model: EntropyModel = entropy_model(preset.model, self._digest)

    def requirements(self) -> Requirements:
        """What a decoder needs for chunks of kind `model`."""
        requirements = self._model.requirements()
        if self._preset.base_layer == "none" or base_layer.base_layer(self._preset.base_layer).portable:
            return requirements
        return Requirements(requirements.weights, False, requirements.licence_class, requirements.platform)

    def encode(self, planes: Samples) -> CodedChunk:
        """The smallest of all ways to code `planes` (planes, rows, columns) that take its dtype."""
        return min(self._candidates(planes), key=lambda coded: coded.size)

    def encode_bytes(self, data: Samples) -> CodedChunk:
        """Bytes that are no samples, uint8 (1, 1, n): no model and no image codec has anything to say about them."""
        crc = samples_crc(data)
        kinds = (chunk_kinds.KINDS[name] for name in BYTE_KINDS)
        return min((CodedChunk({"kind": kind.name, "crc": crc}, kind.encode(data)) for kind in kinds), key=lambda c: c.size)

    def _candidates(self, planes: Samples) -> Iterator[CodedChunk]:
        crc = samples_crc(planes)
        if np.issubdtype(planes.dtype, np.integer):
            with contextlib.suppress(UnsupportedInputError):  # the codecs below take everything
                yield self._by_model(planes, crc)
        for kind in chunk_kinds.KINDS.values():
            if kind.accepts(planes.dtype):
                yield CodedChunk({"kind": kind.name, "crc": crc}, kind.encode(planes))

    def _by_model(self, planes: Samples, crc: int) -> CodedChunk:
        integers: NDArray[np.integer[Any]] = planes  # type: ignore[assignment]  # checked by the caller
        payload, seen = _encode_base(self._preset.base_layer, integers)
        coder = Encoder()
        side = self._model.encode(Chunk(integers, seen), coder)
        header = {"kind": MODEL, "crc": crc, "model": self._model.name, "side": side}
        if self._digest is not None:
            header["weights"] = bytes.fromhex(self._digest)
        if seen is not None:
            header["base"] = {"layer": self._preset.base_layer, "crc": samples_crc(seen)}
        return CodedChunk(header, coder.finish(), payload)


def decode_chunk(
    header: dict[str, Any], payload: bytes, base: bytes | None, shape: tuple[int, int, int], dtype: np.dtype[Any], where: str
) -> Samples:
    """The samples of a chunk, (planes, rows, columns), after their CRC was found good.

    Raises ArchiveDamagedError where the chunk is not what an encoder writes, ModelMismatchError where this machine computes
    other numbers than the one that encoded, ModelMissingError where weights are not here. `where` names archive and chunk.
    """
    if shape[0] * shape[1] * shape[2] > LARGEST_CHUNK:
        raise ArchiveDamagedError(f"{where}: expected at most {LARGEST_CHUNK} samples, found {shape}; restore it from a copy")
    kind = header.get("kind")
    if kind == MODEL:
        return _decode_by_model(header, payload, base, shape, dtype, where)
    if kind not in chunk_kinds.KINDS:
        raise ArchiveDamagedError(f"{where}: expected a known kind of chunk, found {kind!r}; install a newer medzip")
    samples: Samples = chunk_kinds.KINDS[kind].decode(payload, shape, dtype)
    _check_crc(samples, header, where)
    return samples


def _decode_by_model(
    header: dict[str, Any], payload: bytes, base: bytes | None, shape: tuple[int, int, int], dtype: np.dtype[Any], where: str
) -> Samples:
    weights = header.get("weights")
    model = entropy_model(str(header.get("model")), weights.hex() if isinstance(weights, bytes) else None)
    seen = None
    if "base" in header:
        seen = _decode_base(str(header["base"]["layer"]), base, shape, dtype, where)
        if samples_crc(seen) != header["base"]["crc"]:
            raise _mismatch(where, "the base layer")
    try:
        samples = model.decode(ChunkHeader(shape, dtype.str, header["side"], seen), Decoder(payload))
        _check_crc(samples, header, where)
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveDamagedError(f"{where}: expected side information of model {model.name!r}, found something else") from error
    except ArchiveDamagedError as error:
        # The payload's own CRC was good, so a float model that goes astray tells of this machine, not of damage.
        if model.requirements().portable:
            raise
        raise _mismatch(where, "the model") from error
    return samples


def _mismatch(where: str, what: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"{where}: expected {what} to compute the same numbers as where the archive was made, found others; decode it on a "
        "machine with the same CPU instructions and versions (`medzip info` and `medzip doctor` name them)"
    )


def _check_crc(samples: Samples, header: dict[str, Any], where: str) -> None:
    found = samples_crc(samples)
    if found != header.get("crc"):
        raise ArchiveDamagedError(f"{where}: expected samples of CRC {header.get('crc')}, found {found}; restore it from a copy")


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


def _decode_base(
    name: str, data: bytes | None, shape: tuple[int, int, int], dtype: np.dtype[Any], where: str
) -> NDArray[np.integer[Any]]:
    layer, seen, position = base_layer.base_layer(name), [], 0
    for _ in range(-(-shape[0] // 3)):
        if data is None or len(data) < position + 4:
            raise ArchiveDamagedError(f"{where}: expected a base layer for each stack, found less; restore it from a copy")
        length = struct.unpack_from("<I", data, position)[0]
        seen.append(layer.decode(data[position + 4 : position + 4 + length], (3, *shape[1:]), dtype))
        position += 4 + length
    return stacks.unstack(np.stack(seen), shape[0])
