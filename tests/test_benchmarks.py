"""The benchmarks compute what they say: exact probabilities, sums of bytes over sums of bytes, peers with the same skeletons."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import curve, one_codec, phantoms, whole_volumes
from benchmarks.curve import Line, Row
from benchmarks.phantoms import PHANTOMS, Phantom
from medzip.bench.codecs import JPEG_XL, TOMOZ

every_phantom = pytest.mark.parametrize("phantom", PHANTOMS, ids=lambda phantom: phantom.name)


def test_there_are_twelve_phantoms() -> None:
    assert len({phantom.name for phantom in PHANTOMS}) == 12


@every_phantom
@pytest.mark.parametrize("level", [0.0, 0.4, 97.3, 254.9])
def test_probabilities_of_all_values_add_up_to_one(phantom: Phantom, level: float) -> None:
    values = np.arange(phantom.top + 1)
    for sigma in (phantom.sigma, 300.0):
        mass = phantoms.probability(replace(phantom, sigma=sigma), values, np.full(values.shape, level))
        assert (mass >= 0).all()
        assert mass.sum() == pytest.approx(1, abs=1e-9)


@every_phantom
def test_probabilities_are_the_frequencies_of_a_simulation(phantom: Phantom) -> None:
    """Drawn here, not by the benchmark, at signals where clipping and low signal matter."""
    generator, n = np.random.default_rng(5), 100_000
    for level in (0.0, 2.0 * phantom.sigma, phantom.top - phantom.sigma):
        first, second = phantom.sigma * generator.standard_normal((2, n))
        drawn = level + first if phantom.noise == "gaussian" else np.sqrt((level + first) ** 2 + second**2)
        counts = np.bincount(np.clip(np.floor(drawn + 0.5), 0, phantom.top).astype(int), minlength=phantom.top + 1)
        expected = n * phantoms.probability(phantom, np.arange(phantom.top + 1), np.full(phantom.top + 1, level))
        likely = expected > 10
        chi_square = ((counts[likely] - expected[likely]) ** 2 / expected[likely]).sum() / likely.sum()
        assert chi_square < 1 + 6 * np.sqrt(2 / likely.sum())
        assert counts[~likely].sum() < expected[~likely].sum() + 10 + 6 * np.sqrt(n * 0.001)


def test_scaled_bessel_function_joins_its_series() -> None:
    z = np.array([0.0, 1.0, 99.999, 100.001, 400.0])
    assert phantoms._scaled_i0(z) == pytest.approx(np.i0(z) * np.exp(-z), rel=1e-9)


def test_entropy_is_that_of_the_samples_drawn_and_the_seed_fixes_them(tmp_path: Path) -> None:
    phantom, shape = Phantom("gaussian", 20.0, 12), (10, 32, 32)
    entropy = phantoms.save(tmp_path / "a.npy", phantom, shape)
    phantoms.save(tmp_path / "b.npy", phantom, shape)
    samples = np.load(tmp_path / "a.npy")
    assert samples.dtype == np.uint16 and samples.shape == shape
    assert np.array_equal(samples, np.load(tmp_path / "b.npy"))
    # Far from both ends of the range it is the differential entropy of a normal distribution.
    assert entropy == pytest.approx(np.log2(20 * np.sqrt(2 * np.pi * np.e)), abs=0.03)
    assert np.std(samples - phantoms.signal(phantom, shape)) == pytest.approx(20, rel=0.05)


def test_shapes_are_soft() -> None:
    for phantom in PHANTOMS:
        steps = np.abs(np.diff(phantoms.signal(phantom, first=12, last=13), axis=2)).max()
        assert 0 < steps < phantoms.CONTRAST[phantom.bits] / 20
        assert np.ptp(phantoms.signal(replace(phantom, flat=True), first=12, last=13)) == 0


def test_whole_volumes_average_planes_and_add_up_series() -> None:
    def result(medzip: int, jpeg_xl: int, tomoz: int) -> dict[str, Any]:
        return {"medzip": medzip, JPEG_XL: jpeg_xl, TOMOZ: tomoz, "samples": 100, "by_model": 50, "seconds": 1e-6}

    results = {
        "mrnet/dev/1_axial.jxl": result(80, 100, 90),
        "mrnet/dev/2_axial.jxl": result(280, 300, 290),
        "mrnet/dev/1_coronal.jxl": result(70, 100, 90),
        "dev/a": result(50, 100, 100),
        "dev/b": result(90, 100, 100),
        "dev/c": result(1, 100, 100),
    }
    text = whole_volumes.table(results, {path: 8 if path == "dev/c" else 12 for path in results})
    lines = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (row.split("|") for row in text.splitlines())}
    assert lines["MRNet axial (2)"][2:5] == ["0.9000", "0.9500", "0.9474"]
    assert lines["MRNet, mean of 2 planes"][2] == "0.8000"
    assert lines["10 to 16 bit, total (2)"][2] == "0.7000"
    assert lines["a"][0] == "4.000" and lines["a"][-2:] == ["50%", "100.00"]


def test_rivals_pay_for_the_skeleton_and_sums_are_over_volumes() -> None:
    rows = [Row(volume, codec, 1, "open") for codec in (JPEG_XL, "PNG") for volume in ("a", "b")]
    volumes = {name: {"samples": 1000, "skeleton": 10, "sample_bytes": 2000} for name in ("a", "b")}
    sizes = {("a", JPEG_XL): 90, ("b", JPEG_XL): 190, ("a", "PNG"): 190, ("b", "PNG"): 390}
    results = {
        row.key(operation): {"bytes": sizes[row.volume, row.codec], "cold": 2e-3, "warm": 1e-3, "peak_memory": 1 << 20}
        for row in rows
        for operation in row.operations
    }
    jpeg_xl, png = curve.summed(rows, results, volumes)
    assert (jpeg_xl.ratio, png.ratio) == (1, 2)
    assert png.bpsp == 8 * 600 / 2000
    assert (png.decode, png.decode_cold, png.compress, png.decode_memory) == (1.0, 0.5, None, 1.0)
    assert "| PNG | 1 | 2.400 | 2.0000 |" in curve.table([jpeg_xl, png])


def test_a_codec_in_a_process_of_its_own_gives_the_samples_back(tmp_path: Path) -> None:
    scan, coded = tmp_path / "scan.npy", tmp_path / "coded"
    np.save(scan, np.arange(-30, 450, dtype=np.int16).reshape(2, 12, 20))
    row = Row("scan", "JPEG-LS", 2, "open")
    encoded = curve.run("encode", row, scan, coded)
    decoded = curve.run("decode", row, scan, coded)
    assert 0 < encoded["bytes"] == decoded["bytes"] < 960
    assert 0 < decoded["warm"] <= decoded["cold"]
    assert decoded["peak_memory"] > 1 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="resource is a module of Unix")
def test_peak_memory_grows_with_what_is_held() -> None:
    before = one_codec.peak_memory()
    held = np.ones(before // 4, np.int64)
    assert one_codec.peak_memory() >= held.nbytes


def test_the_plot_names_every_codec(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'medzip[bench]'")
    from benchmarks.curve_plot import plot

    names = ["PNG", "tomoz", JPEG_XL, "medzip default", "medzip fast"]
    plot([Line(name, 1, 4, 0.9 + i / 10, i + 1, 1, None, i + 2, 1, 1, 1) for i, name in enumerate(names)], tmp_path / "curve")
    assert all(name in (tmp_path / "curve.svg").read_text() for name in names)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
