"""Noise of known strength on smooth made-up structure: what open volumes lack, above all noise of less than a value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def noisy(generator: np.random.Generator) -> NDArray[np.int32]:
    """A volume (12, 160, 160), lowest 0: regions with soft borders under a smooth field, of 6 to 14 bits, with Gaussian or Rician
    noise of a standard deviation of 0.3 to 30 values."""
    shape = (12, 160, 160)
    sigma = np.exp(generator.uniform(np.log(0.3), np.log(30)))
    contrast = sigma * np.exp(generator.uniform(np.log(4), np.log(200)))
    regions = sum(np.tanh(_field(generator, shape, width) * generator.uniform(1, 8)) for width in (6, 14, 30))
    image = contrast * (regions + 3) * np.exp(0.3 * _field(generator, shape, 60))
    if generator.integers(2):  # air around a body
        image = np.where(_field(generator, shape, 40) > -0.3, image, 0)
    noise = generator.normal(0, sigma, (2, *shape))
    image = np.hypot(image + noise[0], noise[1]) if generator.integers(2) else image + noise[0]
    values = np.rint(np.minimum(image, np.quantile(image, generator.uniform(0.98, 1)))).astype(np.int32)
    return values - values.min()


def _field(generator: np.random.Generator, shape: tuple[int, int, int], width: float) -> NDArray[np.float64]:
    """Gaussian noise smoothed over `width` columns and rows and a quarter of it in planes, of variance 1."""
    spectrum = np.fft.rfftn(generator.standard_normal(shape))
    for axis, (n, reach) in enumerate(zip(shape, (width / 4, width, width), strict=True)):
        frequency = np.fft.rfftfreq(n) if axis == 2 else np.fft.fftfreq(n)
        fall = np.exp(-2 * (np.pi * frequency * reach) ** 2)
        spectrum *= fall.reshape([-1 if i == axis else 1 for i in range(3)])
    field = np.fft.irfftn(spectrum, shape, axes=(0, 1, 2))
    result: NDArray[np.float64] = field / field.std()
    return result
