"""The pixel model codes any integers of 8 to 32 bits; both its ways write the same words; damage is a typed error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_networks import extreme_network, image, integers, random_network, tensors_of, write_network

from medzip.coder.range_coder import Decoder, Encoder
from medzip.entropy_model.contract import Chunk, ChunkHeader
from medzip.entropy_model.pixel import model, reference
from medzip.entropy_model.pixel.fitted import TAP_MAX
from medzip.entropy_model.pixel.model import Pixel
from medzip.entropy_model.pixel.network import Layer, Network, read_network
from medzip.errors import ArchiveDamagedError, ModelMissingError, UnsupportedInputError
from medzip.exact import kernels
from medzip.exact.compiled import setup
from medzip.exact.linear import Linear
from medzip.exact.mixture import Mixture
from medzip.weights.tensors import read_tensors, write_tensors

needs_numba = pytest.mark.skipif(not setup.available(), reason="numba is not installed")

DTYPES = [np.dtype(order + kind) for kind in ("u2", "i2", "u4", "i4") for order in "<>"] + [np.dtype("u1"), np.dtype("i1")]
KINDS = ["constant", "two values", "extremes", "noise", "smooth", "lowest and highest once"]

Coded = tuple[dict[str, Any], bytes]


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Pixel:
    return Pixel(write_network(tmp_path_factory.mktemp("weights") / "random.safetensors", random_network()))


@pytest.fixture(scope="module")
def extreme(tmp_path_factory: pytest.TempPathFactory) -> Pixel:
    return Pixel(write_network(tmp_path_factory.mktemp("weights") / "extreme.safetensors", extreme_network()))


def encoded(pixel: Pixel, samples: np.ndarray) -> Coded:
    coder = Encoder()
    return pixel.encode(Chunk(samples), coder), coder.finish()


def decoded(pixel: Pixel, samples: np.ndarray, coded: Coded) -> np.ndarray:
    return pixel.decode(ChunkHeader(samples.shape, samples.dtype.str, coded[0]), Decoder(coded[1]))


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.dtype == expected.dtype and np.array_equal(found, expected)


def chunk(kind: str, dtype: np.dtype[Any], shape: tuple[int, int, int], seed: int) -> np.ndarray:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    random = np.random.default_rng(seed)
    centre = int(random.integers(low, high + 1))
    if kind == "constant":
        values = np.full(shape, centre)
    elif kind == "two values":
        values = random.choice([low, centre], shape)
    elif kind == "extremes":
        values = random.choice([low, high], shape)
    elif kind == "noise":
        values = random.integers(low, high + 1, shape)
    else:
        values = np.clip(centre + 3 * np.indices(shape).sum(axis=0) + random.integers(-4, 5, shape), low, high)
    if kind == "lowest and highest once":
        values.flat[0], values.flat[-1] = low, high
    return values.astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_what_was_coded_comes_back(pixel: Pixel, kind: str, dtype: np.dtype[Any], shape: tuple[int, int, int], seed: int) -> None:
    samples = chunk(kind, dtype, shape, seed)
    assert same(decoded(pixel, samples, encoded(pixel, samples)), samples)


CHUNKS = {
    "12 bits, fitted": image(12),
    "8 bits, one plane, fitted": image(8, (1, 46, 90)),
    "16 bits": image(16, (3, 9, 14)),
    "20 bits": image(20, (2, 7, 8)),
    "32 bits": image(32, (3, 8, 11)),
    "noise": integers("noise", 0, 255, (3, 6, 10)),
    "extremes of 32 bits": integers("extremes", 0, 1, (3, 6, 7)) * ((1 << 32) - 1),
    "two values": integers("two values", 0, 1, (2, 6, 5)),
    "one row": integers("row", 0, 99, (3, 1, 30)),
    "one column": integers("column", 0, 99, (3, 30, 1)),
    "more samples in a step than a tile": image(12, (3, 22, 249)),
    "planes in groups": image(12, (6, 3, 520)),
}


@needs_numba
@pytest.mark.parametrize("weights", ["pixel", "extreme"])
@pytest.mark.parametrize("name", CHUNKS)
def test_both_ways_write_the_same_words_and_read_each_others(
    name: str, weights: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel, samples = request.getfixturevalue(weights), CHUNKS[name].astype(np.uint32)
    compiled = encoded(pixel, samples)
    read_back = same(decoded(pixel, samples, compiled), samples)
    monkeypatch.setattr(model, "_compiled", lambda: None)
    assert encoded(pixel, samples) == compiled
    assert same(decoded(pixel, samples, compiled), samples) and read_back


def test_the_steps_of_one_of_these_chunks_need_several_tiles() -> None:
    from medzip.entropy_model.pixel import neighbourhood as around

    compiled = pytest.importorskip("medzip.entropy_model.pixel.compiled", reason="compiled code needs numba")
    shape = CHUNKS["more samples in a step than a tile"].shape
    sizes = [len(plane) for plane, _, _ in around.steps(shape)]
    assert max(sizes) > compiled.TILE and max(sizes) % compiled.TILE


@needs_numba
def test_the_compiled_loop_goes_on_where_it_ran_out_of_words(pixel: Pixel) -> None:
    """Noise of 32 bits needs more words than are made ready."""
    samples = integers("full", 0, (1 << 32) - 1, (2, 60, 60)).astype(np.uint32)
    coded = encoded(pixel, samples)
    assert len(coded[1]) // 4 > max(samples.size // 2, 1 << 12)
    assert same(decoded(pixel, samples, coded), samples)


def mixtures_of(network: Network, samples: np.ndarray, taps: tuple[np.ndarray, np.ndarray]) -> list[Mixture]:
    found: list[Mixture] = []

    def code(index: np.ndarray, mixture: Mixture) -> np.ndarray:
        found.append(mixture)
        return samples.reshape(-1)[index]

    reference.visit(samples.shape, int(samples.max()), taps, network, code)
    return found


@pytest.mark.parametrize("name", [kernel.name for kernel in kernels.kernels()])
@pytest.mark.parametrize("network", [random_network(), extreme_network()], ids=["random", "extreme"])
def test_every_kernel_of_this_machine_gives_the_same_mixtures(
    name: str, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = image(12, (3, 7, 9))
    taps = integers("taps", -80, 90, (66,)), integers("taps in plane", -90, 110, (32,))
    kernel = {kernel.name: kernel for kernel in kernels.kernels()}
    expected, found = [], []
    for way, into in (("numpy int64", expected), (name, found)):
        monkeypatch.setattr(kernels, "fastest", lambda _shapes, way=way: kernel[way])
        into += [np.hstack([m.weight, m.mean, m.scale]) for m in mixtures_of(network, samples, taps)]
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_extreme_networks_reach_their_limits() -> None:
    """Biases at the bound of the sums, shifts of 0 and 30, activations at both ends and between, weights of all or nothing."""
    network = extreme_network()
    shifts = np.concatenate([layer.shift for layer in network.layers])
    assert all(layer.linear.largest_sum == (1 << 30) - 1 for layer in network.layers)
    assert shifts.min() == 0 and shifts.max() >= 29
    x = integers("features", 0, 1, (40, 96)).astype(np.int8) * 127
    state = reference.kernels.fastest().layer(network.hidden[0].linear)(x)
    from medzip.exact.linear import hidden

    first = hidden(state, network.hidden[0].shift)
    assert {-127, 127} < set(first.ravel().tolist())
    mixtures = mixtures_of(network, image(12, (3, 7, 9)), (np.zeros(66, np.int64), np.zeros(32, np.int64)))
    assert any((m.weight == 0).any() for m in mixtures)
    assert len({int(code) for m in mixtures for code in m.scale.ravel()}) > 10


@pytest.mark.parametrize("mixtures", range(1, 9))
def test_networks_of_one_to_eight_mixtures(mixtures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(f"{mixtures} mixtures", mixtures=mixtures)
    pixel, samples = Pixel(write_network(tmp_path / "w.safetensors", network)), image(12, (2, 5, 8)).astype(np.uint16)
    coded = encoded(pixel, samples)
    monkeypatch.setattr(model, "_compiled", lambda: None)
    assert encoded(pixel, samples) == coded
    assert same(decoded(pixel, samples, coded), samples)


@pytest.mark.parametrize("widths", [(16, 48, 48), (192, 192, 96), ()], ids=str)
def test_networks_of_other_widths_and_depths(widths: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixel = Pixel(write_network(tmp_path / "w.safetensors", random_network("other", widths)))
    samples = image(12, (3, 5, 8)).astype(np.uint16)
    coded = encoded(pixel, samples)
    monkeypatch.setattr(model, "_compiled", lambda: None)
    assert encoded(pixel, samples) == coded
    assert same(decoded(pixel, samples, coded), samples)


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.float32, np.bool_])
def test_other_samples_are_refused(pixel: Pixel, dtype: type) -> None:
    with pytest.raises(UnsupportedInputError, match="8 to 32 bits"):
        pixel.encode(Chunk(np.zeros((2, 2, 2), dtype)), Encoder())


def test_a_constant_or_empty_chunk_takes_no_symbol(pixel: Pixel) -> None:
    for samples in (np.full((2, 3, 4), -7, np.int16), np.zeros((0, 3, 4), np.int16)):
        side, payload = encoded(pixel, samples)
        assert payload == bytes(4) and side["taps"] == [] and side["low"] == side["high"]
        assert same(decoded(pixel, samples, (side, payload)), samples)


# Damage

GOOD = image(12).astype(np.int16)
WRONG = {
    "low": [None, "0", 1.0, b"", [], -32769, 4096, 1 << 70],
    "high": [None, "9", 2.5, {}, -1, 32768, 1 << 70],
    "taps": [None, 3, {}, [[]], [[0]], [[0] * 66], [[0] * 32, [0] * 66], [[0] * 66, [0] * 32, []], ["x" * 32], [["0"] * 32]],
}
WRONG["taps"] += [
    [[TAP_MAX + 1] * 32],
    [[0.5] * 32],
    [[0] * 66, [-TAP_MAX - 1] + [0] * 31],
    [[0] * 66, None],
    [[0] * 65, [0] * 32],
]


@pytest.fixture(scope="module")
def good(pixel: Pixel) -> Coded:
    side, payload = encoded(pixel, GOOD)
    assert [len(part) for part in side["taps"]] == [66, 32]
    return side, payload


@pytest.mark.parametrize("field", WRONG)
def test_every_wrong_field_of_a_header_is_damage(pixel: Pixel, good: Coded, field: str) -> None:
    side, payload = good
    without = {key: value for key, value in side.items() if key != field}
    for wrong in (without, *(side | {field: value} for value in WRONG[field])):
        with pytest.raises(ArchiveDamagedError, match="chunk header"):
            decoded(pixel, GOOD, (wrong, payload))


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "|b1", "|u1"])
def test_a_dtype_that_does_not_fit_is_damage(pixel: Pixel, good: Coded, dtype: str) -> None:
    with pytest.raises(ArchiveDamagedError, match="chunk header"):
        pixel.decode(ChunkHeader(GOOD.shape, dtype, good[0]), Decoder(good[1]))


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_a_range_for_no_samples_is_damage(pixel: Pixel, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ArchiveDamagedError, match="chunk header"):
        pixel.decode(ChunkHeader(shape, "<i2", {"low": 0, "high": 5, "taps": []}), Decoder(bytes(8)))


def attempt(pixel: Pixel, samples: np.ndarray, coded: Coded) -> None:
    """An error of the right type, or samples of the right shape within the chunk's range."""
    try:
        found = decoded(pixel, samples, coded)
    except ArchiveDamagedError:
        return
    assert found.shape == samples.shape and found.dtype == samples.dtype
    assert found.min() >= coded[0]["low"] and found.max() <= coded[0]["high"]


@settings(deadline=None, max_examples=40)
@given(
    way=st.sampled_from(["default", "numpy alone"]),
    kind=st.sampled_from(["flip", "cut", "longer", "random", "zeros", "ones"]),
    of=st.sampled_from(["pixel", "extreme"]),
    bits=st.sampled_from([8, 16, 32]),
    at=st.integers(0, 10**6),
)
def test_a_damaged_payload_gives_an_error_or_wrong_samples_within_the_range(
    pixel: Pixel, extreme: Pixel, way: str, kind: str, of: str, bits: int, at: int
) -> None:
    samples, used = image(bits, (2, 3, 5)).astype(np.uint32), pixel if of == "pixel" else extreme
    with pytest.MonkeyPatch.context() as patched:
        if way == "numpy alone":
            patched.setattr(model, "_compiled", lambda: None)
        side, payload = encoded(used, samples)
        damaged = {
            "flip": bytearray(payload),
            "cut": payload[: 4 * (1 + at % (len(payload) // 4))],
            "longer": payload + payload,
            "random": np.random.default_rng(at).bytes(4 * (1 + at % 99)),
            "zeros": bytes(len(payload)),
            "ones": b"\xff" * len(payload),
        }[kind]
        if isinstance(damaged, bytearray):
            damaged[at % len(damaged)] ^= 1 << at % 8
        attempt(used, samples, (side, bytes(damaged)))


def test_a_payload_under_another_header_gives_an_error_or_samples_within_its_range(pixel: Pixel, good: Coded) -> None:
    side, payload = good
    for changes in ({"high": 32767}, {"low": -32768}, {"taps": []}, {"taps": [[TAP_MAX] * 66, [-TAP_MAX] * 32]}):
        attempt(pixel, GOOD, (side | changes, payload))


def test_an_empty_or_ragged_payload_is_damage(pixel: Pixel, good: Coded) -> None:
    for payload in (b"", good[1][:-1], b"abc"):
        with pytest.raises(ArchiveDamagedError, match="words of 4 bytes"):
            decoded(pixel, GOOD, (good[0], payload))


# Coder and weights file


def test_a_coder_gives_what_it_took_and_lets_all_be_read() -> None:
    coder = Encoder()
    assert coder.finish() == bytes(4)
    coder.take(b"\x01\x02\x03\x04")
    assert coder.finish() == b"\x01\x02\x03\x04"
    assert Decoder(coder.finish()).data == b"\x01\x02\x03\x04"


def test_a_weights_file_gives_back_its_network(tmp_path: Path) -> None:
    network = extreme_network()
    path = write_network(tmp_path / "w.safetensors", network).path
    found = tensors_of(read_network(path))
    for name, tensor in tensors_of(network).items():
        assert same(found[name], tensor), name


def test_the_same_tensors_make_the_same_file_in_any_order(tmp_path: Path) -> None:
    tensors, metadata = dict(tensors_of(random_network())), {"kind": "pixel", "licence_class": "open"}
    write_tensors(tmp_path / "a", tensors, metadata)
    write_tensors(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    tensors = dict(tensors_of(random_network()))
    write_tensors(tmp_path / "w.safetensors", tensors, {"kind": "pixel"})
    found = safetensors.load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys() and all(same(found[name], tensors[name]) for name in tensors)


def test_a_cut_or_mangled_weights_file_is_a_missing_model(tmp_path: Path) -> None:
    path = write_network(tmp_path / "w.safetensors", random_network()).path
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    changed = [data[:end] for end in (0, 7, 8, 100, 8 + length, len(data) - 1)]
    changed += [data[:8] + text.ljust(length).encode() + data[8 + length :] for text in ("{", "[]", '{"a":1}', '{"a":{}}', "3")]
    changed += [
        data.replace(b'"I8"', b'"F9"'),
        data.replace(b"[32,96]", b"[33,96]"),
        data.replace(b"data_offsets", b"data_0ffsets"),
    ]
    for bad in changed:
        path.write_bytes(bad)
        with pytest.raises(ModelMissingError):
            read_tensors(path)


def test_a_file_without_a_tensor_of_the_network_is_a_missing_model(tmp_path: Path) -> None:
    tensors = dict(tensors_of(random_network()))
    for name in tensors:
        write_tensors(tmp_path / "w", {key: value for key, value in tensors.items() if key != name}, {})
        with pytest.raises(ModelMissingError):
            read_network(tmp_path / "w")


def changed_layer(layer: Layer, **changes: Any) -> Layer:
    parts = {"weight": layer.linear.weight, "bias": layer.linear.bias, "shift": layer.shift} | changes
    return Layer(Linear(parts["weight"], parts["bias"]), parts["shift"])


def test_networks_whose_layers_do_not_fit_are_refused() -> None:
    good = random_network()
    first, out = good.hidden[0], good.out
    bad_shifts = [(first, 31), (first, -1), (out, 3), (out, 31)]
    bad = [changed_layer(layer, shift=np.full_like(layer.shift, shift)) for layer, shift in bad_shifts]
    wrong = [Layer(first.linear, first.shift[:-1]), Layer(first.linear, first.shift.astype(np.int64))]
    networks = [(good.hidden[1:], out), (good.hidden, first), *(((layer, *good.hidden[1:]), out) for layer in (*bad[:2], *wrong))]
    networks += [(good.hidden, layer) for layer in bad[2:]]
    for hidden, last in networks:
        with pytest.raises(ModelMissingError, match="fit each other"):
            Network(tuple(hidden), last)


@pytest.mark.parametrize("widths, mixtures", [((24, 24, 8), 4), ((7,), 2), ((20, 32, 16), 4), ((32, 32, 16), 9)])
def test_widths_that_compiled_code_could_not_align_and_too_many_mixtures_are_refused(
    widths: tuple[int, ...], mixtures: int
) -> None:
    with pytest.raises(ModelMissingError, match="fit each other"):
        random_network("refused", widths, mixtures)
