"""Networks from weights files."""

from __future__ import annotations

import json
from pathlib import Path

from medzip.entropy_model.llm.network import NeighbourNetwork, NetworkConfig
from medzip.entropy_model.llm.prompts import PromptNetwork

Network = NeighbourNetwork | PromptNetwork


def network_of(config: NetworkConfig) -> Network:
    """A network of this configuration with random weights."""
    return NeighbourNetwork(config) if config.layout == "neighbours" else PromptNetwork(config)


def load_network(path: Path, attention: str = "sdpa") -> Network:
    """The network of a weights file, whose metadata hold its configuration, ready to infer.

    `attention` is the name under which transformers knows the attention to use.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        config = NetworkConfig(**json.loads(file.metadata()["network"]))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    network = network_of(config)
    network.load_state_dict(weights)
    network.backbone.set_attn_implementation(attention)  # type: ignore[operator]  # transformers adds it to nn.Module
    return network.eval().requires_grad_(False)
