"""Tiny language models with random weights, as files that medzip finds: the codec does not care what they learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def backbone(positions: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 24,
        "max_position_embeddings": positions,
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def write_weights(
    folder: Path, kind: str, *, patch: int = 8, name: str = "tiny", licence_class: str = "open", prompted: bool = True
) -> Path:
    """A weights file for preset `kind` ('llm' or 'paper', perhaps without prompts): the same bytes every time."""
    import torch
    from safetensors.torch import save_file

    from medzip.entropy_model.llm.load import network_of
    from medzip.entropy_model.llm.network import NetworkConfig

    layout, prompts = ("neighbours", 0) if kind == "llm" else ("prompts", 4 * prompted)
    config = NetworkConfig(layout, backbone(6 * patch * patch + prompts), patch, 3, prompts, prompted)
    torch.manual_seed(7)
    network = network_of(config)
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    path = folder / f"{name}-{kind}.safetensors"
    save_file(weights, path, metadata={"network": json.dumps(config.to_dict()), "kind": kind, "licence_class": licence_class})
    return path
