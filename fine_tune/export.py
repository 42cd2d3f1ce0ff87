"""From a finished run to weights that medzip finds: the file with its self-test, in the folder of shipped weights.

    python -m fine_tune.export runs/open_llm/weights.safetensors medzip/weights/open-llm-1.safetensors

The self-test is the coded size of a small synthetic image: `medzip doctor` codes it again, and a machine whose size is far
off computes something else than the weights mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from medzip.doctor import coded_by_language_model
from medzip.weights.registry import read_weights


def export(source: Path, target: Path) -> None:
    """Write `target`, first without a self-test, then with the size that it was coded in."""
    with safe_open(source, "pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    metadata.pop("self_test", None)
    save_file(tensors, target, metadata=metadata)
    size = len(coded_by_language_model(read_weights(target)))
    save_file(tensors, target, metadata=metadata | {"self_test": str(size)})


def main() -> None:
    arguments = argparse.ArgumentParser(description="Export trained weights for medzip.")
    arguments.add_argument("source", type=Path)
    arguments.add_argument("target", type=Path)
    given = arguments.parse_args()
    export(given.source, given.target)
    weights = read_weights(given.target)
    print(f"{given.target}: {weights.kind}, {weights.licence_class}, SHA-256 {weights.sha256}, self-test {weights.self_test}")


if __name__ == "__main__":
    main()
