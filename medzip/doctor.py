"""What `medzip doctor` tells: what is installed, what this machine can do, and whether the models compute what they should."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medzip
from medzip.entropy_model.contract import EntropyModel
from medzip.errors import MedzipError, VerificationError
from medzip.weights.registry import Weights

REQUIRED = (
    "numpy",
    "numba",
    "llvmlite",
    "imagecodecs",
    "constriction",
    "cbor2",
    "zstandard",
    "pcodec",
    "google-crc32c",
    "reedsolo",
    "rich",
    "threadpoolctl",
)
OPTIONAL = ("torch", "transformers", "safetensors", "peft", "pydicom", "nibabel", "pynetdicom", "dask", "zarr", "tomoz")
IMAGE_CODECS = {"JPEG XL": "JPEGXL", "JPEG-LS": "JPEGLS", "JPEG 2000": "JPEG2K", "HTJ2K": "HTJ2K", "PNG": "PNG"}
INT8_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
"""As /proc/cpuinfo spells them, x86-64 first, then ARM."""
FLOAT_KINDS = ("llm", "paper")
PARAMETRIC_DIGEST = "ad6885338f390dfea62d2868e3767d92ac475281b78b293bafd150438d658b4e"
"""SHA-256 of what the parametric model makes of `self_test_samples`, on every machine; a new one means a new format version."""


def report() -> dict[str, Any]:
    """JSON-able data on this installation. `problems` is empty where all is well; nothing heavy but imagecodecs is imported.

    Keys: medzip, python, platform, cpu_features, versions (None: not installed), codecs, weights, self_tests, problems.
    """
    problems: list[str] = []
    return {
        "medzip": medzip.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_features": cpu_features(),
        "versions": _versions(problems),
        "codecs": _codecs(problems),
        "weights": _weights(problems),
        "self_tests": _self_tests(problems),
        "problems": problems,
    }


def cpu_features() -> list[str]:
    """The instruction sets that numpy found, and where Linux tells, those that decide how fast and how well int8 is computed."""
    configuration: Any = np.show_config(mode="dicts")
    extensions = configuration["SIMD Extensions"]
    found = [*extensions["baseline"], *extensions.get("found", [])]
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return found
    return [*found, *(name for name in INT8_FLAGS if name in flags)]


def _versions(problems: list[str]) -> dict[str, str | None]:
    versions = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    problems += [
        f"{name}: expected it installed, found it missing; run pip install medzip" for name in REQUIRED if not versions[name]
    ]
    return versions


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _codecs(problems: list[str]) -> dict[str, str | bool]:
    try:
        import imagecodecs
    except ImportError:
        return {}
    codecs: dict[str, str | bool] = {name: bool(getattr(imagecodecs, key).available) for name, key in IMAGE_CODECS.items()}
    if codecs["JPEG XL"]:
        codecs["JPEG XL"] = imagecodecs.jpegxl_version()
    else:
        problems.append("JPEG XL: expected it in imagecodecs, found it missing; run pip install --force-reinstall imagecodecs")
    return codecs


def _weights(problems: list[str]) -> list[dict[str, str]]:
    from medzip.weights import registry

    try:
        return [
            {"name": entry.name, "kind": entry.kind, "licence_class": entry.licence_class, "sha256": entry.sha256}
            for entry in registry.entries()
        ]
    except MedzipError as error:
        problems.append(str(error))
        return []


def _self_tests(problems: list[str]) -> dict[str, bool]:
    tests: dict[str, Callable[[], bool]] = {"parametric": parametric_is_exact}
    from medzip.weights import registry

    with contextlib.suppress(MedzipError):  # `_weights` tells
        for weights in registry.entries():
            if weights.kind not in FLOAT_KINDS:
                tests[weights.name] = partial(integer_model_is_exact, weights)
            elif _version("torch") and _version("transformers"):
                tests[weights.name] = partial(language_model_is_right, weights)
    results = {}
    for name, test in tests.items():
        try:
            results[name] = test()
        except Exception as error:  # whatever breaks here is what this command is asked to find
            results[name] = False
            problems.append(f"{name}: self-test ended with {type(error).__name__}: {error}")
        else:
            if not results[name]:
                problems.append(f"{name}: the self-test gave other numbers than on other machines; do not use this installation")
    return results


def self_test_samples() -> NDArray[np.uint16]:
    """Two stacks of 32 x 28 samples (6, 32, 28): a smooth image with steps and noise, from integer arithmetic alone."""
    z, y, x = np.indices((6, 32, 28), dtype=np.int64)
    noise = (z * 7919 + y * 104729 + x * 1299709) * 2654435761 % 2**32 >> 27
    samples: NDArray[np.uint16] = ((900 + 3 * x * y - 17 * z * x + 400 * (x > 2 * y) + noise) % 4096).astype(np.uint16)
    return samples


def parametric_is_exact() -> bool:
    """Whether the parametric model writes the recorded bytes, and reads them back."""
    from medzip.entropy_model.parametric import Parametric

    return hashlib.sha256(_coded(Parametric(), self_test_samples())).hexdigest() == PARAMETRIC_DIGEST


def integer_model_is_exact(weights: Weights) -> bool:
    """Whether a network in integers writes the bytes that it wrote where it was exported, and reads them back."""
    return coded_by_integer_model(weights) == weights.self_test


def coded_by_integer_model(weights: Weights) -> str:
    """SHA-256 of what a network in integers makes of `self_test_samples`, a language model of a part of them."""
    from medzip.entropy_model.llm_exact.model import ExactLanguageModel
    from medzip.entropy_model.pixel.model import Pixel

    if weights.kind == ExactLanguageModel.name:
        return hashlib.sha256(_coded(ExactLanguageModel(weights), self_test_samples()[:2, :18, :16])).hexdigest()
    return hashlib.sha256(_coded(Pixel(weights), self_test_samples())).hexdigest()


def _coded(model: EntropyModel, samples: NDArray[np.uint16]) -> bytes:
    """What a model makes of samples. Raises VerificationError where it does not read them back."""
    from medzip.coder.range_coder import Decoder, Encoder
    from medzip.entropy_model.contract import Chunk, ChunkHeader

    coder = Encoder()
    side = model.encode(Chunk(samples), coder)
    payload = coder.finish()
    decoded = model.decode(ChunkHeader(samples.shape, samples.dtype.str, side), Decoder(payload))
    if not np.array_equal(decoded, samples):
        raise VerificationError(f"{model.name}: expected the image that was coded, found another")
    return payload


def language_model_is_right(weights: Weights) -> bool:
    """Whether a language model codes a known image in the size that it had where it was trained, to one in a hundred, and
    reads it back. Its floats may differ in their last bits, which changes a few bytes; a wrong kernel changes many."""
    payload = coded_by_language_model(weights)
    return weights.self_test is None or abs(len(payload) - int(weights.self_test)) * 100 <= int(weights.self_test)


def coded_by_language_model(weights: Weights) -> bytes:
    """What a language model makes of a slice of 16 x 16. Raises VerificationError where it does not read it back."""
    from medzip.base_layer import base_layer
    from medzip.coder.range_coder import Decoder, Encoder
    from medzip.entropy_model.contract import Chunk, ChunkHeader
    from medzip.entropy_model.llm.model import LanguageModel

    samples = self_test_samples()[:1, :16, :16]
    base = base_layer("jxl_decimated").encode(samples)[1] if weights.kind == "paper" else None
    coder, model = Encoder(), LanguageModel(weights)
    side = model.encode(Chunk(samples, base), coder)
    payload = coder.finish()
    decoded = model.decode(ChunkHeader(samples.shape, samples.dtype.str, side, base), Decoder(payload))
    if not np.array_equal(decoded, samples):
        raise VerificationError(f"{weights.name}: expected the image that was coded, found another")
    return payload
