"""Presets: each a point on the curve of bytes against speed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """`model` is the entropy model, `base_layer` what the model sees of a chunk in advance, `planes_per_chunk` how many
    planes (slices, or colours of RGB frames) are coded together, a multiple of 3."""

    description: str
    model: str
    base_layer: str
    planes_per_chunk: int


PRESETS: dict[str, Preset] = {
    "default": Preset("adaptive integer model, decodes on any machine", "parametric", "none", 33),
    "llm": Preset("language model over neighbouring voxels, smallest, slow, not portable", "llm", "none", 12),
    "paper": Preset("language model over a lossy JPEG XL base, as published, slow, not portable", "paper", "jxl_lossy", 12),
}
