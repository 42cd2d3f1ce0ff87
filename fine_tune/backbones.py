"""Pretrained causal language models as backbones: any that transformers loads and that takes `inputs_embeds`.

In a configuration `network.backbone` is either a model from scratch (`model_type: llama` and its sizes), or

    backbone: {pretrained: FOLDER or NAME, layers: 4}

with a folder as transformers writes it (LLaMA, SmolLM2, Qwen ...) or what `medzip models add` fetched; `layers` keeps the first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medzip.errors import UsageError
from medzip.weights.pretrained import folder_of

# What a network of medzip has instead: no words, a dtype of its own, weights that are named elsewhere.
_LEFT_OUT = ("dtype", "torch_dtype", "architectures", "transformers_version", "quantization_config", "tie_word_embeddings")


def is_pretrained(backbone: dict[str, Any]) -> bool:
    """Whether a configuration asks for a pretrained model."""
    return "pretrained" in backbone


def described(backbone: dict[str, Any]) -> dict[str, Any]:
    """The full configuration of a backbone, as a weights file holds it: sizes instead of the name of a folder."""
    if not is_pretrained(backbone):
        return backbone
    from transformers import AutoConfig

    loaded = AutoConfig.from_pretrained(folder_of(backbone["pretrained"])).to_dict()
    kept = {
        key: value
        for key, value in loaded.items()
        if key not in _LEFT_OUT and not key.startswith("_") and not key.endswith("_token_id") and value is not None
    }
    kept |= {"vocab_size": 1, "bos_token_id": None, "eos_token_id": None}
    kept["num_hidden_layers"] = backbone.get("layers") or kept["num_hidden_layers"]
    kept.setdefault("num_key_value_heads", kept["num_attention_heads"])
    kept.setdefault("head_dim", kept["hidden_size"] // kept["num_attention_heads"])
    return kept


def load_into(network: nn.Module, backbone: dict[str, Any]) -> None:
    """Gives the network's backbone, made by the `described` configuration, the pretrained weights of its layers."""
    from transformers import AutoModel

    folder = folder_of(backbone["pretrained"])
    model, told = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wanted: dict[str, Tensor] = network.backbone.state_dict()  # type: ignore[union-attr, operator]  # a module of the network
    words = {name: own for name, own in wanted.items() if "embed_tokens" in name}
    needed = wanted.keys() - words.keys()
    # transformers makes up what it does not find.
    weights: dict[str, Tensor] = {name: weight for name, weight in model.state_dict().items() if name not in told["missing_keys"]}
    if missing := needed - weights.keys():
        raise UsageError(f"{folder}: expected weights called {min(missing)}, found none; use another folder")
    network.backbone.load_state_dict({name: weights[name] for name in needed} | words)  # type: ignore[union-attr, operator]
