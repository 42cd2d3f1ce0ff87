"""The plot of bytes against speed: one point a codec, the colours of Okabe and Ito, which colour-blind people tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.one_codec import MEDZIP

if TYPE_CHECKING:
    from benchmarks.curve import Line

FAMILIES = (
    (MEDZIP, "#D55E00", "o"),
    ("JPEG XL", "#0072B2", "s"),
    ("tomoz", "#009E73", "D"),
    ("", "#595959", "^"),
)
"""Beginning of the name, colour, marker: the first that fits."""


def plot(lines: list[Line], path: Path) -> None:
    """Writes `path`.svg and `path`.png: ratio to JPEG XL against decode speed and against encode speed. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "medzip", "font.size": 9, "svg.fonttype": "none"}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
        _panel(left, [(line.codec, line.decode, line.ratio) for line in lines], "decode")
        _panel(right, [(line.codec, line.encode, line.ratio) for line in lines], "encode")
        left.set_ylabel("bytes / bytes of lossless JPEG XL, effort 7 (less is better)")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150)
        pyplot.close(figure)


def _panel(axes: Any, points: list[tuple[str, float, float]], direction: str) -> None:
    for name, speed, ratio in points:
        colour, marker = next((colour, marker) for start, colour, marker in FAMILIES if name.startswith(start))
        axes.plot(speed, ratio, marker, color=colour, markersize=8 if name.startswith(MEDZIP) else 6)
        axes.annotate(name, (speed, ratio), xytext=(0, 7), textcoords="offset points", ha="center", color=colour)
    ours = sorted((speed, ratio) for name, speed, ratio in points if name.startswith(MEDZIP))
    axes.plot(*zip(*ours, strict=True), color=FAMILIES[0][1], linewidth=1) if ours else None
    axes.set_xscale("log")
    axes.margins(0.15)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--")
    axes.grid(True, which="major", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{direction}, million voxels a second, one thread, warm")
