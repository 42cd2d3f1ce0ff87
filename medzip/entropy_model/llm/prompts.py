"""The published method: visual prompts from a lossy base layer, then the residual, voxel by voxel (preset `paper`).

Du et al., Large Language Model for Lossless Image Compression with Visual Prompts, sections 3.1 and 3.2. A sequence is
[global prompt | local prompt | residual tokens]. Two things are medzip's: values of more than 8 bits are embedded as the
sum of a high and a low part, and the value tables start smooth, with row, column and channel told apart, because a small
language model has no room to learn arithmetic from tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medzip.entropy_model.llm.network import MixtureHead, NetworkConfig, backbone_from

CENTRE = 65536 + 128
"""Added to a residual before it is split, so that those of 8-bit data share one high part."""


def smooth_table(rows: int, hidden: int) -> Tensor:
    """Sines and cosines of the row number at wavelengths from 2 to 2 `rows`, so that near values start near."""
    wavelengths = torch.exp(torch.linspace(0.7, float(torch.log(torch.tensor(2.0 * rows))), hidden // 2))
    angle = 2 * torch.pi * torch.arange(rows)[:, None] / wavelengths
    return torch.cat([angle.sin(), angle.cos()], 1) * 0.3


class ValueTable(nn.Module):
    """Embeds integers from 0 to 256 `high` - 1 as the sum of a learned high part and a learned low part."""

    def __init__(self, high: int, hidden: int) -> None:
        super().__init__()
        self.high = nn.Embedding(high, hidden, _weight=smooth_table(high, hidden))
        self.low = nn.Embedding(256, hidden, _weight=smooth_table(256, hidden))

    def forward(self, value: Tensor) -> Tensor:
        embedded: Tensor = self.high(value >> 8) + self.low(value & 255)
        return embedded


class PromptNetwork(nn.Module):
    """Layout `prompts`. Base values and residuals have tables of their own; the global prompt is a small CNN's view of the
    whole base stack."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone_from(config.backbone)
        hidden = int(config.backbone["hidden_size"])
        side = round(config.global_prompts**0.5)
        # Without global prompts it is there and not asked, so that all networks have the same weights.
        self.describe_stack = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=4, padding=2),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(64, hidden, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(max(side, 1)),
        )
        self.base_table = ValueTable(256, hidden)
        self.residual_table = ValueTable(512, hidden)
        self.row = nn.Embedding(config.patch, hidden)
        self.column = nn.Embedding(config.patch, hidden)
        self.channel = nn.Embedding(3, hidden)
        for table in (self.row, self.column, self.channel):
            nn.init.normal_(table.weight, std=0.3)
        self.head = MixtureHead(hidden, config.components)

    def place(self, position: Tensor, channels: int) -> Tensor:
        """What tells voxels apart: `position` (...) counts the patch's voxels, the `channels` slices interleaved."""
        patch = self.config.patch
        within, channel = position // channels, position % channels
        embedded: Tensor = self.row(within // patch) + self.column(within % patch) + self.channel(channel)
        return embedded

    def global_prompt(self, base: Tensor) -> Tensor:
        """(stacks, k_g, hidden) from base stacks (stacks, 3, rows, columns) scaled to -1..1."""
        prompt: Tensor = self.describe_stack(base).flatten(2).transpose(1, 2)[:, : self.config.global_prompts]
        return prompt

    def local_prompt(self, base: Tensor, channels: int) -> Tensor:
        """(patches, voxels, hidden) from base values (patches, voxels) from 0 to 65535, slices interleaved."""
        position = torch.arange(base.shape[1], device=base.device)
        prompt: Tensor = self.base_table(base) + self.place(position, channels)
        return prompt

    def residual_tokens(self, residual: Tensor, position: Tensor, channels: int) -> Tensor:
        """Tokens that carry the residual just decoded and say which voxel, `position`, comes next."""
        tokens: Tensor = self.residual_table(residual + CENTRE) + self.place(position, channels)
        return tokens

    def forward(self, prompt: Tensor, base: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixtures of all residuals: `prompt` (patches, k_g, hidden), `base` and `residual` (patches, voxels)."""
        channels = base.shape[1] // self.config.patch**2
        position = torch.arange(base.shape[1], device=base.device)
        if self.config.local_prompt:
            tokens = [prompt, self.local_prompt(base, channels), self.residual_tokens(residual[:, :-1], position[1:], channels)]
        else:
            before = torch.cat([torch.zeros_like(residual[:, :1]), residual[:, :-1]], 1)
            tokens = [prompt, self.residual_tokens(before, position, channels)]
        hidden = self.backbone(inputs_embeds=torch.cat(tokens, 1), use_cache=False).last_hidden_state
        return self.head(hidden[:, -base.shape[1] :])  # type: ignore[no-any-return]  # a module's call has no type


def unit(low: int, high: int) -> int:
    """In which unit mixtures of residuals are told: 4 for 8-bit data, a 64th of the range above."""
    return 1 << max((high - low).bit_length() - 6, 0)
