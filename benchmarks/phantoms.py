"""The distance to the limit: phantoms whose true entropy is known, and what codecs make of them.

    python -m benchmarks.phantoms --results RESULTS.json [--preset default]

Twelve volumes, 24 x 192 x 192: Gaussian or Rician noise of sigma 0.7, 3 or 20 in stored values, 8 or 12 bits. Noise is added to
a noiseless image, the sum rounded and clipped to the range. So the probability of the integer that was drawn is known exactly,
given the noiseless image, and the mean of -log2 of it is what the best codec in the world would need if it knew that image. No
codec does, and finding out costs bits: therefore the shapes are few ellipsoids with soft edges under a smooth bias field. What
they cost nevertheless is seen beside a flat image with the same noise. No phantom may ever be used in training.

Sizes are archives on the disk, container counted; JPEG XL and tomoz get the bytes of the same skeleton added.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.weights_tag import weights_tag
from medzip.bench.codecs import JPEG_XL, TOMOZ, voxel_codecs
from medzip.bench.measure import by_medzip, by_voxels, read_scans

Floats = NDArray[np.float64]
Shape = tuple[int, int, int]

SHAPE: Shape = (24, 192, 192)
SLAB = 8
"""So many slices are drawn at a time."""

# Centre (z, y, x) and half axes in halves of the volume, and how much brighter than what lies around it.
ELLIPSOIDS = (
    ((0.0, 0.0, 0.0), (4.0, 0.75, 0.65), 1.0),
    ((0.1, -0.25, 0.25), (3.0, 0.45, 0.35), 0.25),
    ((-0.2, 0.15, -0.25), (3.5, 0.50, 0.35), -0.15),
    ((0.3, 0.40, 0.20), (3.0, 0.35, 0.40), 0.20),
)
SOFTNESS = 0.6
"""An edge falls off over so much of an ellipsoid's half axes."""
CONTRAST = {8: 110.0, 12: 200.0}
"""Stored values between the body and what lies around it, by bits."""
BACKGROUND = {"gaussian": {8: 30.0, 12: 1000.0}, "rician": {8: 0.0, 12: 0.0}}
"""Stored values. Clipping cuts Gaussian noise of sigma 20 at 8 bits; like air in MR, Rician noise has no signal beneath it."""


@dataclass(frozen=True)
class Phantom:
    """`noise` is 'gaussian' or 'rician', `sigma` in stored values, which use `bits` bits; a `flat` one has no shapes."""

    noise: str
    sigma: float
    bits: int
    flat: bool = False

    @property
    def name(self) -> str:
        return f"{self.noise} {self.sigma:g}, {self.bits} bit"

    @property
    def top(self) -> int:
        """The largest value."""
        return (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)


PHANTOMS = tuple(Phantom(noise, sigma, bits) for noise, sigma, bits in product(("gaussian", "rician"), (0.7, 3.0, 20.0), (8, 12)))


def signal(phantom: Phantom, shape: Shape = SHAPE, first: int = 0, last: int | None = None) -> Floats:
    """The noiseless image of slices `first` to `last` - 1 in stored values, float64 (slices, rows, columns)."""
    z, y, x = (np.linspace(-1, 1, length) for length in shape)
    z, y, x = z[first:last, None, None], y[:, None], x[None, :]
    image: Floats = np.full((z.shape[0], *shape[1:]), BACKGROUND[phantom.noise][phantom.bits])
    if phantom.flat:
        return image + CONTRAST[phantom.bits]
    for centre, axes, brightness in ELLIPSOIDS:
        distance = np.sqrt(sum(((a - c) / h) ** 2 for a, c, h in zip((z, y, x), centre, axes, strict=True)))
        image += CONTRAST[phantom.bits] * brightness / 2 * (1 - np.tanh((distance - 1) / SOFTNESS))
    image *= 1 + 0.12 * np.cos(1.1 * y + 0.1 * z) * np.cos(0.9 * x - 0.5) + 0.05 * x
    return image


def slabs(phantom: Phantom, shape: Shape = SHAPE, seed: int = 1) -> Iterator[tuple[NDArray[Any], Floats]]:
    """The samples of a few slices and the noiseless image that they were drawn from, one slab after the other."""
    generator = np.random.default_rng([seed, phantom.bits, round(10 * phantom.sigma), phantom.noise == "rician"])
    for first in range(0, shape[0], SLAB):
        image = signal(phantom, shape, first, first + SLAB)
        noisy = image + phantom.sigma * generator.standard_normal(image.shape)
        if phantom.noise == "rician":
            noisy = np.hypot(noisy, phantom.sigma * generator.standard_normal(image.shape))
        yield np.clip(np.rint(noisy), 0, phantom.top).astype(phantom.dtype), image


def save(path: Path, phantom: Phantom, shape: Shape = SHAPE) -> float:
    """Writes the volume as a .npy file, holding a slab of it at a time; its true entropy in bits a sample."""
    target = np.lib.format.open_memmap(path, "w+", phantom.dtype, shape)
    first, bits = 0, 0.0
    for samples, image in slabs(phantom, shape):
        target[first : first + len(samples)] = samples
        bits -= float(np.log2(probability(phantom, samples, image)).sum())
        first += len(samples)
    target.flush()
    return bits / math.prod(shape)


def probability(phantom: Phantom, samples: NDArray[Any], image: Floats) -> Floats:
    """The probability of each sample, given the noiseless image; what clipping cuts off counts for the ends of the range."""
    low = np.where(samples == 0, -np.inf, samples - 0.5)
    high = np.where(samples == phantom.top, np.inf, samples + 0.5)
    mass = _gaussian_mass if phantom.noise == "gaussian" else _rician_mass
    return mass(low, high, image, phantom.sigma)


_erfc: Any = np.frompyfunc(math.erfc, 1, 1)


def _gaussian_mass(low: Floats, high: Floats, mean: Floats, sigma: float) -> Floats:
    """On the side of the mean where both values of erfc are small, so that their difference keeps its digits."""
    left, right = ((edge - mean) / (sigma * math.sqrt(2)) for edge in (low, high))
    swap = left + right < 0
    left, right = np.where(swap, -right, left), np.where(swap, -left, right)
    mass: Floats = (_erfc(left).astype(np.float64) - _erfc(right).astype(np.float64)) / 2
    return mass


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_FAR = 14
"""So many sigma above the signal nothing is left."""


def _rician_mass(low: Floats, high: Floats, signal: Floats, sigma: float) -> Floats:
    """The density (Gudbjartsson and Patz 1995, eq. 1) integrated by Gauss-Legendre quadrature, 16 nodes every two sigma.

    It has no mass below 0; infinity stands for `_FAR` sigma above signal and edge.
    """
    low = np.maximum(low, 0.0)
    high = np.where(np.isinf(high), np.maximum(low, signal) + _FAR * sigma, high)
    pieces = np.maximum(np.ceil((high - low) / (2 * sigma)), 1).astype(int)
    mass = np.zeros(low.shape)
    for count in np.unique(pieces):
        chosen = pieces == count
        start, nu = low[chosen], signal[chosen]
        width = (high[chosen] - start) / count
        mass[chosen] = sum(
            _WEIGHTS[node] / 2 * width * _rician_density(start + (piece + (_NODES[node] + 1) / 2) * width, nu, sigma)
            for piece in range(count)
            for node in range(len(_NODES))
        )
    return mass


def _rician_density(x: Floats, signal: Floats, sigma: float) -> Floats:
    density: Floats = x / sigma**2 * np.exp(-(((x - signal) / sigma) ** 2) / 2) * _scaled_i0(x * signal / sigma**2)
    return density


def _scaled_i0(z: Floats) -> Floats:
    """exp(-z) I0(z) for z >= 0: beyond 100, where I0 soon overflows, by Abramowitz and Stegun 9.7.1, exact to 10^-10."""
    far = np.maximum(z, 100.0)
    series = 1 + (1 + (9 + (225 + 11025 / (32 * far)) / (24 * far)) / (16 * far)) / (8 * far)
    near = np.minimum(z, 100.0)
    scaled: Floats = np.where(z > 100, series / np.sqrt(2 * np.pi * far), np.i0(near) * np.exp(-near))
    return scaled


def measure(phantom: Phantom, preset: str, shape: Shape = SHAPE) -> dict[str, Any]:
    """The true entropy and the bits of medzip, JPEG XL and tomoz (where installed) in bits a sample; open weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "phantom.npy")
        result: dict[str, Any] = {"entropy": save(path, phantom, shape)}
        scans = read_scans(path)
        medzip = by_medzip(path, preset, "open", scans)
        sizes = {codec.name: by_voxels(codec, scans).bytes for codec in voxel_codecs() if codec.name in (JPEG_XL, TOMOZ)}
    result |= {name: 8 * size / math.prod(shape) for name, size in {"medzip": medzip.bytes, **sizes}.items()}
    return result | {"note": medzip.note}


def over_entropy(bits: dict[str, Any]) -> float:
    """medzip's bits over the true entropy, 0 being the limit."""
    return float(bits["medzip"] / bits["entropy"] - 1)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, one line a phantom; results by name: of the phantom, and of the flat image with the same noise."""
    lines = ["| phantom | true entropy | medzip | JPEG XL e7 | tomoz | over entropy | note | flat image, over entropy | note |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |")
    for name, result in results.items():
        bits, flat = result["phantom"], result["flat"]
        cells = " | ".join(f"{bits[codec]:.4f}" if codec in bits else "-" for codec in ("entropy", "medzip", JPEG_XL, TOMOZ))
        over = " | ".join(f"{over_entropy(one):+.2%} | {one['note']}" for one in (bits, flat))
        lines.append(f"| {name} | {cells} | {over} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description="medzip's bits over the true entropy of phantoms.")
    arguments.add_argument("--results", type=Path, required=True, help="JSON file that keeps what is done: run again to go on")
    arguments.add_argument("--preset", default="default")
    given = arguments.parse_args()
    results: dict[str, dict[str, Any]] = json.loads(given.results.read_text()) if given.results.exists() else {}
    keys = {phantom: f"{phantom.name} / {given.preset} / {weights_tag(given.preset, 'open')}" for phantom in PHANTOMS}
    for phantom, key in keys.items():
        if key not in results:
            flat = replace(phantom, flat=True)
            results[key] = {"phantom": measure(phantom, given.preset), "flat": measure(flat, given.preset)}
            given.results.write_text(json.dumps(results, indent=1))
    print(table({phantom.name: results[key] for phantom, key in keys.items()}))


if __name__ == "__main__":
    main()
