"""The language model presets on held-out MRNet volumes: archives on the disk beside lossless JPEG XL.

    python -m benchmarks.mrnet_llm --data DATA --results RESULTS.json [--preset llm] [--models all] [--whole]

For each volume of DATA/mrnet/dev its middle stack is compressed with `medzip.compress` (verified by decoding), and its
archive compared with lossless JPEG XL (effort 7, one codestream a slice) of the same slices plus the same skeleton bytes.
With --whole the cross-entropy of all stacks of every volume is computed too. RESULTS keeps what is done: run again to go on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

import medzip
from fine_tune.datasets.manifest import load, rows
from fine_tune.evaluate.cross_entropy import stack_bits
from medzip import skeleton, sources
from medzip.base_layer import base_layer
from medzip.entropy_model.llm.load import Network, load_network
from medzip.presets import PRESETS
from medzip.weights.registry import Weights, select


def jpeg_xl_bytes(slices: NDArray[np.uint8]) -> int:
    """Bytes of lossless JPEG XL, effort 7, one codestream a slice."""
    return sum(len(imagecodecs.jpegxl_encode(np.ascontiguousarray(plane), lossless=True, effort=7)) for plane in slices)


def coded(slices: NDArray[np.uint8], preset: str, weights: str | None = None, verify: bool = True) -> dict[str, Any]:
    """The archive of some slices, really written, and verified by decoding unless told otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder, "stack.npy")
        np.save(scan, slices)
        began = time.monotonic()
        [made] = medzip.compress(scan, preset=preset, weights=weights, verify=verify)
        seconds = time.monotonic() - began
        [group] = sources.groups(scan)
        packed, _ = skeleton.pack(sources.read(group)[0])
        return {
            "archive": made.archive_bytes,
            "chunks": medzip.info(made.archive)["sections"]["CHNK"],
            "jpeg_xl": jpeg_xl_bytes(slices) + len(packed),
            "samples": made.samples,
            "model_share": made.model_share,
            "verified": made.verified,
            "seconds": seconds,
        }


def cross_entropy(network: Network, stack: NDArray[np.uint8], low: int, high: int, layer: str) -> float:
    """Bytes of a stack by cross-entropy, its base layer's included."""
    if layer == "none":
        return stack_bits(network, stack, low, high) / 8
    whole = np.concatenate([stack, np.repeat(stack[-1:], 3 - len(stack), axis=0)])
    payload, seen = base_layer(layer).encode(whole)
    return len(payload) + stack_bits(network, stack, low, high, seen[: len(stack)]) / 8


def measure(
    volume: NDArray[np.uint8], preset: str, weights: Weights, network: Network, whole: bool, verify: bool
) -> dict[str, Any]:
    """Coded size and cross-entropy of the middle stack, and of all stacks by cross-entropy where asked for."""
    first = len(volume) // 2 // 3 * 3
    middle, layer = volume[first : first + 3], PRESETS[preset].base_layer
    result = coded(middle, preset, weights.name, verify)
    result["cross_entropy"] = cross_entropy(network, middle, int(middle.min()), int(middle.max()), layer)
    if whole:
        stacks = [volume[z : z + 3] for z in range(0, len(volume), 3)]
        low, high = int(volume.min()), int(volume.max())
        result["whole_cross_entropy"] = sum(cross_entropy(network, stack, low, high, layer) for stack in stacks)
        result["whole_jpeg_xl"] = jpeg_xl_bytes(volume)
        result["whole_samples"] = volume.size
    return result


def report(results: dict[str, dict[str, Any]]) -> str:
    """One line a plane and one for all: sums of bytes over sums of bytes."""
    lines = ["| volumes | archive bpsp | JPEG XL bpsp | ratio | cross-entropy / chunks | whole volumes, ratio |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for plane in ("axial", "coronal", "sagittal", ""):
        chosen = [result for path, result in results.items() if plane in path]

        def total(key: str, chosen: list[dict[str, Any]] = chosen) -> float:
            return sum(result.get(key, 0) for result in chosen)

        if not chosen:
            continue
        whole = f"{total('whole_cross_entropy') / total('whole_jpeg_xl'):.4f}" if total("whole_jpeg_xl") else "-"
        lines.append(
            f"| {plane or 'all'} ({len(chosen)}) | {8 * total('archive') / total('samples'):.3f} "
            f"| {8 * total('jpeg_xl') / total('samples'):.3f} | {total('archive') / total('jpeg_xl'):.4f} "
            f"| {total('cross_entropy') / total('chunks'):.4f} | {whole} |"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Language model presets on held-out MRNet volumes.")
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--results", type=Path, required=True)
    arguments.add_argument("--preset", choices=["llm", "paper"], default="llm")
    arguments.add_argument("--models", choices=["open", "all"], default="all")
    arguments.add_argument("--volumes", nargs="+", default=["mrnet/dev/*"], help="patterns of paths in the manifest")
    arguments.add_argument("--whole", action="store_true")
    arguments.add_argument("--no-verify", dest="verify", action="store_false", help="half the time; sizes are the same")
    given = arguments.parse_args()
    weights, *_ = select({"llm": PRESETS["llm"].in_floats}.get(given.preset, given.preset), given.models)
    network = load_network(weights.path)
    results: dict[str, dict[str, Any]] = json.loads(given.results.read_text()) if given.results.exists() else {}
    for row in rows(given.data, given.volumes):
        if row["path"] not in results:
            volume = load(given.data, row).samples.astype(np.uint8)
            results[row["path"]] = measure(volume, given.preset, weights, network, given.whole, given.verify)
            given.results.write_text(json.dumps(results, indent=1))
            last = results[row["path"]]
            print(f"{row['path']}: {last['archive'] / last['jpeg_xl']:.4f} in {last['seconds']:.0f} s", flush=True)
    print(f"weights {weights.name}, SHA-256 {weights.sha256}\n\n{report(results)}")


if __name__ == "__main__":
    main()
