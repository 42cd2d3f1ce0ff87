"""Tables on the data at hand: each row trained for the same time, measured by cross-entropy and by really coded bytes.

    python -m fine_tune.evaluate --table fine_tune/tables/sizes.yaml --data DATA --results RESULTS

Prints the table in Markdown; RESULTS gets table.md, table.csv, table.png and the runs. What is there is not done again, and a row
that was cut goes on. A table is a YAML file: `title`, `config` (of a training), `set` (changes for all rows), `minutes` (of
training a row), `side` (of the middle of each held-out volume that is measured, 3 slices of it), `coded` (how many of these are
really coded), and `rows` of `name` and `set`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
import yaml

from fine_tune.evaluate.rows import Outcome, measured
from fine_tune.options import told

COLUMNS = {
    "bpsp": lambda one: f"{one.total:.3f}",
    "of it base": lambda one: f"{one.base:.3f}",
    "/ JPEG XL": lambda one: f"{one.total / one.jpeg_xl:.4f}",
    "coded bpsp": lambda one: "" if one.coded is None else f"{one.coded:.3f}",
    "coded / JPEG XL": lambda one: "" if one.coded is None else f"{one.coded / one.coded_jpeg_xl:.4f}",
    "weights": lambda one: f"{one.weights:,}",
    "kMAC a voxel": lambda one: f"{one.kmac:,.0f}",
    "encode kvoxel/s": lambda one: "" if one.encode_seconds is None else f"{1000 / one.encode_seconds:.2f}",
    "decode kvoxel/s": lambda one: "" if one.decode_seconds is None else f"{1000 / one.decode_seconds:.2f}",
    "steps": lambda one: f"{one.steps:,}",
    "trained": lambda one: f"{one.seconds / 60:.1f} min",
}


def markdown(outcomes: list[Outcome]) -> str:
    lines = [f"| | {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * len(COLUMNS)]
    return "\n".join([*lines, *(f"| {one.name} | {' | '.join(cell(one) for cell in COLUMNS.values())} |" for one in outcomes)])


def plot(title: str, outcomes: list[Outcome], path: Path) -> None:
    """Bars of base and residual beside lossless JPEG XL's line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(outcomes) + 1.2), layout="constrained")
    names = [one.name for one in outcomes]
    axes.barh(names, [one.base for one in outcomes], color="#9bb7d4", label="base layer")
    axes.barh(names, [one.entropy for one in outcomes], left=[one.base for one in outcomes], color="#2f5d8a", label="residual")
    axes.axvline(outcomes[0].jpeg_xl, color="#a33", label="JPEG XL effort 7")
    axes.invert_yaxis()
    axes.set_xlabel("bits a sample")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    arguments = argparse.ArgumentParser(description="A table of trained rows on the data at hand.")
    arguments.add_argument("--table", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--results", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, help="of training a row, instead of the table's")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    table = yaml.safe_load(given.table.read_text())
    table["minutes"] = given.minutes or table["minutes"]
    outcomes = []
    for row in table["rows"]:
        outcomes.append(measured(table, row, given.data, given.results, given.threads))
        print(f"{row['name']}: {outcomes[-1].total:.3f} bits a sample", flush=True)
        text = markdown(outcomes)
        (given.results / "table.md").write_text(f"# {table['title']}\n\n{text}\n")
        with (given.results / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", *COLUMNS])
            writer.writerows([one.name, *(cell(one) for cell in COLUMNS.values())] for one in outcomes)
        plot(table["title"], outcomes, given.results / "table.png")
    print(f"\n{text}")


if __name__ == "__main__":
    told(main)
