"""Presets: each a point on the curve of bytes against speed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """`model` is the entropy model, `weights` the kind of its weights, `base_layer` what the model sees of a chunk in advance,
    `planes_per_chunk` how many planes (slices, or colours of RGB frames) are coded together, a multiple of 3.

    A preset that `tries_weights` codes a part of each chunk with all weights that are allowed and takes the best, others
    take the first. A `thorough` one codes each chunk in all ways and keeps the smallest. One that `adapts` lets the model fit
    itself to each chunk first. `in_floats` is the model, and the kind of its weights, that takes over where such
    weights are asked for by name.
    """

    description: str
    model: str
    weights: str
    base_layer: str
    planes_per_chunk: int
    tries_weights: bool
    thorough: bool
    adapts: bool = False
    in_floats: str = ""


PRESETS: dict[str, Preset] = {
    "default": Preset("small network in integers, decodes on any machine", "pixel", "pixel", "none", 33, True, False),
    "fast": Preset("the same with a smaller network", "pixel", "fast", "none", 33, True, False),
    "max": Preset("the network of default, fitted to each chunk: minutes", "pixel", "pixel", "none", 33, True, True, True),
    "parametric": Preset("adaptive contexts without weights, decodes on any machine", "parametric", "", "none", 33, False, True),
    "llm": Preset(
        "language model over neighbouring voxels in integers, slow, decodes on any machine",
        "llm_exact",
        "llm_exact",
        "none",
        12,
        False,
        True,
        in_floats="llm",
    ),
    "paper": Preset(
        "language model over a lossy JPEG XL base, as published, slow, not portable",
        "paper",
        "paper",
        "jxl_lossy",
        12,
        False,
        True,
    ),
}
