"""tools/unmdz.py, written from FORMAT.md alone, and medzip agree: about every golden archive, new ones, and damage."""

from __future__ import annotations

import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encapsulated_files import RLE, encapsulated, image, rle
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pipeline_inputs import contents, files_of, npy, rewritten, smooth, written
from pixel_networks import integers, random_network, write_network
from test_golden import CONTENTS, GOLDEN, sha256

from medzip import pipeline
from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader, EntropyModel
from medzip.entropy_model.parametric import Parametric
from medzip.entropy_model.pixel.adaptation import Change, write_adapter
from medzip.entropy_model.pixel.model import Pixel
from medzip.errors import ArchiveDamagedError
from medzip.sources.wrappers import deflate
from medzip.sources.wrappers.deflate.framing import framed
from medzip.sources.wrappers.deflate.kernels import octets
from medzip.sources.wrappers.deflate.sides import _coded
from medzip.sources.wrappers.deflate.streams import index
from medzip.sources.wrappers.deflate.writers import CANDIDATES

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import unmdz

TABLES = unmdz.Tables(unmdz.TABLES)
DTYPES = ["|u1", "|i1", "<u2", "<i2", "<u4", "<i4"]
few = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])

needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the command zstd (Debian package zstd)")


def restored(archive: Path, folder: Path) -> dict[str, Any]:
    assert unmdz.main([str(archive), "-o", str(folder)]) == 0
    return contents(folder)


@needs_zstd
@pytest.mark.parametrize("name", CONTENTS)
def test_a_golden_archive_gives_its_files(tmp_path: Path, name: str) -> None:
    if "jpeg_xl" in CONTENTS[name]["chunks"] and shutil.which("djxl") is None:
        pytest.skip("needs the command djxl (Debian package libjxl-tools)")
    pipeline.decompress(GOLDEN / name, tmp_path / "medzip")
    assert restored(GOLDEN / name, tmp_path / "unmdz") == contents(tmp_path / "medzip")
    assert {path.name: sha256(path) for path in (tmp_path / "unmdz").iterdir()} == CONTENTS[name]["files"]


def decoded(header: ChunkHeader, model: EntropyModel, data: bytes, folder: Path, weights: bytes) -> np.ndarray:
    record = {"side": header.side, "weights": weights}
    if isinstance(model, Parametric):
        return unmdz.parametric(record, data, header.shape, np.dtype(header.dtype), TABLES)
    return unmdz.pixel(record, data, header.shape, np.dtype(header.dtype), TABLES, folder)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Pixel]:
    """Folder, SHA-256 and model of a small network."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    weights = write_network(path, random_network())
    return path.parent, bytes.fromhex(sha256(path)), Pixel(weights)


def samples_of(shape: tuple[int, int, int], dtype: str, kind: str, seed: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    if kind == "noise":
        return integers(f"{seed}", int(limits.min), int(limits.max), shape).astype(dtype)
    if kind == "two values":
        return np.where(integers(f"{seed}", 0, 9, shape) == 0, limits.max, limits.min).astype(dtype)
    z, y, x = np.indices(shape)
    return (np.abs(x * 3 + y * 2 - 5 * z + integers(f"{seed}", 0, 5 if kind == "slope" else 0, shape)) % 127).astype(dtype)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 10), st.integers(1, 18))


@few
@given(
    SHAPES,
    st.sampled_from(DTYPES),
    st.sampled_from(["slope", "flat slope", "noise", "two values"]),
    st.booleans(),
    st.integers(0, 99),
)
@example((5, 1, 513), "<u2", "slope", True, 0)  # two groups of planes
def test_what_medzip_codes_unmdz_decodes(
    network: tuple[Path, bytes, Pixel], shape: tuple[int, int, int], dtype: str, kind: str, is_pixel: bool, seed: int
) -> None:
    folder, digest, pixel = network
    model: EntropyModel = pixel if is_pixel else Parametric()
    samples, coder = samples_of(shape, dtype, kind, seed), Encoder()
    header = ChunkHeader(shape, dtype, model.encode(Chunk(samples), coder))
    assert np.array_equal(decoded(header, model, coder.finish(), folder, digest), samples)


def adapter(rank: int, largest: int, seed: int) -> bytes:
    def numbers(name: str, *shape: int) -> np.ndarray:
        return integers(f"{seed} {name}", -largest, largest, shape)

    layers = [layer.linear for layer in random_network().layers]
    return write_adapter(
        [
            Change(numbers(f"b{i}", layer.outputs), numbers(f"u{i}", layer.outputs, rank), numbers(f"v{i}", rank, layer.inputs))
            for i, layer in enumerate(layers)
        ]
    )


@few
@given(
    shape=SHAPES,
    dtype=st.sampled_from(DTYPES),
    words=st.binary(min_size=1200, max_size=1200),
    taps=st.sampled_from([(), (32,), (66, 32)]),
    largest=st.sampled_from([30, 1000, 8192]),
    rank=st.none() | st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_any_words_taps_and_adapters_give_both_the_same_samples_or_neither(
    network: tuple[Path, bytes, Pixel],
    shape: tuple[int, int, int],
    dtype: str,
    words: bytes,
    taps: tuple[int, ...],
    largest: int,
    rank: int | None,
    seed: int,
) -> None:
    folder, digest, model = network
    limits = np.iinfo(dtype)
    side: dict[str, Any] = {"low": int(limits.min), "high": int(limits.max) // (seed % 3 + 1)}
    side["taps"] = [integers(f"{seed} {length}", -largest, largest, (length,)).tolist() for length in taps]
    if rank is not None:
        side["adapter"] = adapter(rank, seed % 9, seed)
    header = ChunkHeader(shape, dtype, side)
    try:
        expected = model.decode(header, Decoder(words))
    except ArchiveDamagedError:
        with pytest.raises(unmdz.DamagedError):
            decoded(header, model, words, folder, digest)
    else:
        assert np.array_equal(decoded(header, model, words, folder, digest), expected)


@needs_zstd
def test_a_folder_comes_back_with_its_manifest(tmp_path: Path) -> None:
    source = tmp_path / "study"
    written(source / "series", files_of("dcm", smooth((24, 4, 5), "<u2")))
    written(source / "mr", files_of("nii", smooth((2, 8, 9), ">i2")))
    words = [np.random.default_rng(seed) for seed in range(2)]
    written(source / "rle", {f"{seed}.dcm": run_length(shape, words[seed]) for seed, shape in enumerate([(9, 40), (9, 40, 3)])})
    written(source, {"notes.txt": b"notes", "big.bin": bytes(range(256)) * 300, "bits.npy": npy(smooth((3, 9, 7)) % 2 == 0)})
    (source / "nothing").mkdir()
    (source / "link").symlink_to("notes.txt")
    pipeline.compress(source, tmp_path / "archives", preset="parametric")
    assert restored(tmp_path / "archives", tmp_path / "back") == contents(source)


DEFLATED = bytes(300) + b"abcabcabd" * 20 + smooth((1, 20, 15), "<i2").tobytes() + bytes(range(256))


def test_every_writer_of_deflate_streams_is_followed() -> None:
    """Each writer's parameters, with streams that most of them predict badly."""
    for level, bits, flush, candidates in (
        (6, -15, zlib.Z_SYNC_FLUSH, CANDIDATES),
        (1, 31, zlib.Z_FULL_FLUSH, CANDIDATES[::7]),
        (0, 15, 0, CANDIDATES[::20]),
    ):
        made = zlib.compressobj(level, zlib.DEFLATED, bits, 1)
        parts = [made.compress(DEFLATED[:700]) + (made.flush(flush) if flush else b""), made.compress(DEFLATED[700:])]
        data = b"".join(parts) + made.flush()
        found = framed(data, bits < 0, 1 << 20)
        assert found is not None
        octet, content = octets(data), [octets(memoryview(found.content))]
        places = [index(octet, stream) for stream in found.streams]
        for parameters in candidates:
            side = _coded(octet, found, content, places, parameters, 1 << 20)
            assert side is not None and unmdz.deflated(found.content, side) == data


@few
@given(st.integers(0, 9), st.data())
def test_changed_side_information_gives_both_the_same_stream_or_neither(level: int, data: st.DataObject) -> None:
    content = DEFLATED[200:]
    apart = deflate.taken_apart(zlib.compress(content, level))
    assert apart is not None
    side = bytearray(apart[1])
    for _ in range(data.draw(st.integers(1, 3))):
        side[data.draw(st.integers(0, len(side) - 1))] = data.draw(st.integers(0, 255))
    try:
        expected = deflate.rebuilt(content, bytes(side))
    except ArchiveDamagedError:
        with pytest.raises((unmdz.DamagedError, ArithmeticError, LookupError, ValueError)):
            unmdz.deflated(content, bytes(side))
    else:
        assert unmdz.deflated(content, bytes(side)) == expected


def run_length(shape: tuple[int, ...], random: np.random.Generator) -> bytes:
    samples = image(shape)
    return encapsulated([[rle(samples, random)]], samples, RLE)


@few
@given(st.sampled_from(["v1_0_pixel_rgb", "v1_0_stored", "v1_0_zstd", "v1_0_complex"]), st.data())
@needs_zstd
def test_damage_is_refused_or_does_no_harm(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damage")
    whole = bytearray((GOLDEN / f"{name}.mdz").read_bytes())
    if data.draw(st.booleans(), "cut"):
        del whole[data.draw(st.integers(0, len(whole) - 1), "at") :]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1), "at")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    (folder / "scan.mdz").write_bytes(whole)
    code = unmdz.main([str(folder / "scan.mdz"), "-o", str(folder / "out")])
    made = {path.name: sha256(path) for path in (folder / "out").glob("*")}
    assert made == (CONTENTS[f"{name}.mdz"]["files"] if code == 0 else {})
    assert code in (0, 2, 3)


@needs_zstd
@pytest.mark.parametrize(
    "change",
    [
        {"header": lambda header: {**header, "crc": header["crc"] ^ 1}},
        {"header": lambda header: {**header, "side": {**header["side"], "high": 255}}},
        {"header": lambda header: {**header, "side": {}}},
        {"header": lambda header: {**header, "first": 1}},
        {"header": lambda header: {**header, "count": 10**12}},
        {"header": lambda header: {**header, "kind": "none"}},
        {"head": lambda head: {**head, "volumes": []}},
        {"head": lambda head: {**head, "volumes": [{**head["volumes"][0], "dtype": "<f4"}]}},
        {"files": lambda files: [{**files[0], "sha256": bytes(32)}]},
        {"files": lambda files: [{**files[0], "name": "../frames.npy"}]},
        {"files": lambda files: files * 2},
    ],
)
def test_an_archive_that_says_what_is_not_so_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    archive = rewritten(GOLDEN / "v1_0_pixel_rgb.mdz", tmp_path / "scan.mdz", **change)
    assert unmdz.main([str(archive), "-o", str(tmp_path / "out")]) in (2, 3)
    assert not list((tmp_path / "out").rglob("*"))
    assert "scan.mdz: " in capsys.readouterr().err


def test_float_models_missing_weights_and_missing_commands_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(unmdz.UnsupportedError, match="float model llm"):
        unmdz.coded_samples({"kind": "model", "model": "llm"}, b"", (1, 1, 1), np.dtype("u1"), TABLES, tmp_path)
    with pytest.raises(unmdz.MissingError, match="--weights"):
        unmdz.read_weights(tmp_path, bytes(32))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(unmdz.MissingError, match="libjxl-tools"):
        unmdz.command("djxl in.jxl out.pgm", b"", "in.jxl")


@needs_zstd
def test_files_that_exist_stay(tmp_path: Path) -> None:
    (tmp_path / "frames.npy").write_bytes(b"mine")
    assert unmdz.main([str(GOLDEN / "v1_0_pixel_rgb.mdz"), "-o", str(tmp_path)]) != 0
    assert contents(tmp_path) == {"frames.npy": b"mine"}
