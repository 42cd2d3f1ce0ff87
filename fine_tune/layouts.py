"""The two layouts of the language model, as training sees them: a network, a source of batches, a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fine_tune.base_layers import named
from fine_tune.datasets.manifest import TrainingVolume
from fine_tune.datasets.patches import PatchBatch, PatchSource
from fine_tune.datasets.prompts import PATCHES_PER_STACK, PromptBatch, PromptSource
from medzip.base_layer import BaseLayer
from medzip.entropy_model.llm.network import NeighbourNetwork, NetworkConfig, mixture_bits
from medzip.entropy_model.llm.prompts import PromptNetwork


class Source(Protocol):
    def draw(self, patches: int) -> Any: ...


class Layout(Protocol):
    """`loss` gives the mean bits per sample of a batch that `source` drew."""

    def network(self) -> nn.Module: ...

    def source(self, volumes: Sequence[TrainingVolume], seed: int) -> Source: ...

    def loss(self, network: nn.Module, batch: Any) -> Tensor: ...


@dataclass(frozen=True)
class Neighbours:
    """Preset llm: one token a voxel, made of numeric neighbour features."""

    config: NetworkConfig

    def network(self) -> nn.Module:
        return NeighbourNetwork(self.config)

    def source(self, volumes: Sequence[TrainingVolume], seed: int) -> PatchSource:
        return PatchSource(volumes, self.config.patch, seed)

    def loss(self, network: nn.Module, batch: PatchBatch) -> Tensor:
        mixture = network(batch.features)
        bits = mixture_bits(batch.sample, batch.prediction, batch.scale, mixture, torch.zeros_like(batch.top), batch.top)
        return (bits * batch.inside).sum() / batch.inside.sum()


@dataclass(frozen=True)
class Prompts:
    """Preset paper: global prompt, local prompt, residual tokens, over a lossy base layer."""

    config: NetworkConfig
    layer: BaseLayer

    def network(self) -> nn.Module:
        return PromptNetwork(self.config)

    def source(self, volumes: Sequence[TrainingVolume], seed: int) -> PromptSource:
        return PromptSource(volumes, self.config.patch, self.layer, seed)

    def loss(self, network: nn.Module, batch: PromptBatch) -> Tensor:
        """Bits of the residual alone: those of the base layer are the same whatever the network does."""
        assert isinstance(network, PromptNetwork)
        prompt = torch.cat([network.global_prompt(stack).expand(PATCHES_PER_STACK, -1, -1) for stack in batch.stacks])
        mixture = network(prompt, batch.base, batch.residual)
        base, sample = batch.base.float(), (batch.base + batch.residual).float()
        top, unit = (part.float().expand_as(base) for part in (batch.top, batch.unit))
        bits = mixture_bits(sample, base, unit, mixture, torch.zeros_like(top), top)
        return (bits * batch.inside).sum() / batch.inside.sum()


def layout_of(config: NetworkConfig, base: dict[str, Any] | None = None) -> Layout:
    """The layout that a network's configuration names, over the base layer that `base` describes (`base_layers.named`)."""
    layout: Layout = Neighbours(config) if config.layout == "neighbours" else Prompts(config, named(base))
    return layout
