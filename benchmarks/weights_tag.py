"""Which weights a figure was measured with, so that results of other weights are not taken for those of today."""

from __future__ import annotations

from medzip.entropy_model.registry import digests_for
from medzip.presets import PRESETS


def weights_tag(preset: str, models: str) -> str:
    """The first digits of the SHA-256 of all weights that a preset may use; "none" where it uses none."""
    digests = digests_for(PRESETS[preset].model, PRESETS[preset].weights, models, None)
    return "+".join(digest[:8] for digest in digests if digest is not None) or "none"
