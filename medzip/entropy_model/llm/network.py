"""The language models that medzip codes with: a causal transformer between a layout's embeddings and a mixture head.

The backbone is any causal language model of transformers that takes `inputs_embeds`; what differs between the two layouts
is what a token is made of (Du et al., Large Language Model for Lossless Image Compression with Visual Prompts, section 3).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medzip.entropy_model.llm.offsets import FEATURES


@dataclass(frozen=True)
class NetworkConfig:
    """What a weights file says of its network.

    `layout` is 'neighbours' (preset llm) or 'prompts' (preset paper); `backbone` is the configuration of a transformers
    model as its `to_dict` gives it; `patch` is the side of a patch in voxels; `components` is K of the mixture;
    `global_prompts` is k_g, the number of tokens that describe the whole base stack, and `local_prompt` tells whether the base
    of the patch goes before its residual (both prompts only).
    """

    layout: str
    backbone: dict[str, Any]
    patch: int = 16
    components: int = 5
    global_prompts: int = 0
    local_prompt: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def tiny_llama(
    hidden: int, layers: int, heads: int, intermediate: int, positions: int, key_value_heads: int = 1
) -> dict[str, Any]:
    """The configuration of a small Llama from scratch; one key/value head keeps the cache of a stack in a CPU's L3."""
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "head_dim": hidden // heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": positions,
        "vocab_size": 1,
    }


def backbone_from(config: dict[str, Any]) -> nn.Module:
    """A transformers model of this configuration with random weights."""
    from transformers import AutoConfig, AutoModel

    settings = {key: value for key, value in config.items() if key != "model_type"}
    model: nn.Module = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **settings))  # type: ignore[no-untyped-call]  # transformers
    return model


class MixtureHead(nn.Module):
    """Hidden state -> K logits, K means and K log2 standard deviations, the last two in units of the local scale."""

    def __init__(self, hidden: int, components: int, linear_skip: int = 0) -> None:
        super().__init__()
        self.components = components
        self.project = nn.Linear(hidden, 3 * components)
        self.skip = nn.Linear(linear_skip, 1, bias=False) if linear_skip else None
        with torch.no_grad():
            self.project.weight.mul_(0.3)
            self.project.bias.zero_()
            self.project.bias[components : 2 * components] = torch.linspace(-0.5, 0.5, components)
            if self.skip is not None:
                self.skip.weight.zero_()

    def forward(self, hidden: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        logit, mean, log_deviation = self.project(hidden).unflatten(-1, (3, self.components)).unbind(-2)
        if self.skip is not None and features is not None:
            mean = mean + self.skip(features)
        return logit, mean, log_deviation.clamp(-8, 6)


class NeighbourNetwork(nn.Module):
    """Layout `neighbours`: one token a voxel, made of what is known around that voxel; no prefix."""

    prefix = 0

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone_from(config.backbone)
        hidden = int(config.backbone["hidden_size"])
        self.embed = nn.Linear(FEATURES, hidden)
        self.row = nn.Embedding(config.patch, hidden)
        self.column = nn.Embedding(config.patch, hidden)
        self.channel = nn.Embedding(3, hidden)
        for table in (self.row, self.column, self.channel):
            nn.init.normal_(table.weight, std=0.1)
        self.head = MixtureHead(hidden, config.components, linear_skip=FEATURES)

    def tokens(self, features: Tensor, position: Tensor) -> Tensor:
        """Embeddings of tokens: `features` (..., FEATURES), `position` (...) counts voxels of the patch, channel by channel."""
        patch = self.config.patch
        channel, place = position // patch**2, position % patch**2
        embedded: Tensor = self.embed(features) + self.row(place // patch) + self.column(place % patch) + self.channel(channel)
        return embedded

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixtures of all voxels of whole patches: `features` is (patches, 3 patch^2, FEATURES)."""
        position = torch.arange(features.shape[1], device=features.device).expand(features.shape[:2])
        hidden = self.backbone(inputs_embeds=self.tokens(features, position), use_cache=False).last_hidden_state
        return self.head(hidden, features)  # type: ignore[no-any-return]  # a module's call


def mixture_bits(
    sample: Tensor, prediction: Tensor, scale: Tensor, mixture: tuple[Tensor, Tensor, Tensor], low: Tensor, high: Tensor
) -> Tensor:
    """Bits of each sample under its mixture of discretized Gaussians: the loss (paper, section 3.3, equation 3).

    All of one shape (...,), the mixture's parts (..., K). Mass beyond `low` and `high` goes to the ends.
    """
    logit, mean, log_deviation = mixture
    mean = prediction[..., None] + mean * scale[..., None]
    deviation = (scale[..., None] * torch.exp2(log_deviation)).clamp(min=2.0**-4)
    far = 1e9  # not infinity, whose gradient is no number
    above = torch.where(sample >= high, torch.full_like(sample, far), sample + 0.5)[..., None]
    below = torch.where(sample <= low, torch.full_like(sample, -far), sample - 0.5)[..., None]
    upper, lower = (above - mean) / deviation, (below - mean) / deviation
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    mass = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    total = (torch.softmax(logit, -1) * mass).sum(-1)
    floor = 16 / 2**16
    return -torch.log2(total * (1 - floor) + floor / (high - low + 1))
