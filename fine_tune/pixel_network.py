"""The pixel network while it is trained: floats, rounded as the integer network of `medzip.entropy_model.pixel` rounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fine_tune.datasets.voxels import Batch
from medzip.entropy_model.pixel.features import FEATURES
from medzip.exact.compiled.setup import njit

STEP = 1 / 16
"""What one unit of a feature or of a hidden activation stands for."""
LARGEST = 127 * STEP
LEAK = 1 / 16


def rounded(value: Tensor, step: float | Tensor) -> Tensor:
    """`value` at multiples of `step`; gradients pass as if nothing had happened."""
    return value + (torch.round(value / step) * step - value).detach()


def weight_shift(weight: Tensor) -> Tensor:
    """For each output (outputs, 1) the largest shift s of 4..14 with which all |weight| 2^s stay within 127."""
    largest = weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-6)
    return torch.floor(torch.log2(127.49 / largest)).clamp(4, 14)


class _Activation(torch.autograd.Function):
    """Leaky, added to the state before where there is one, clipped and rounded: one pass over memory instead of ten."""

    @staticmethod
    def forward(context: Any, made: Tensor, state: Tensor | None) -> Tensor:
        result = torch.empty_like(made)
        slope = torch.empty(made.shape, dtype=torch.int8)
        added = (made if state is None else state).detach().numpy()
        _activate(made.detach().numpy(), added, state is not None, result.numpy(), slope.numpy())
        context.save_for_backward(slope)
        context.has_state = state is not None
        return result

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Tensor, Tensor | None]:
        (slope,) = context.saved_tensors
        of_made = torch.empty(slope.shape)
        of_state = torch.empty(slope.shape) if context.has_state else of_made
        _activate_backward(gradients[0].contiguous().numpy(), slope.numpy(), context.has_state, of_made.numpy(), of_state.numpy())
        return of_made, of_state if context.has_state else None


@njit
def _activate(made: Any, state: Any, has_state: Any, result: Any, slope: Any) -> None:
    for i in range(made.shape[0]):
        for j in range(made.shape[1]):
            value = max(made[i, j], made[i, j] * np.float32(LEAK))
            if has_state:
                value += state[i, j]
            clipped = min(max(value, np.float32(-LARGEST)), np.float32(LARGEST))
            result[i, j] = np.floor(clipped * np.float32(1 / STEP) + np.float32(0.5)) * np.float32(STEP)
            slope[i, j] = 0 if value != clipped else 1 if made[i, j] > 0 else 2


@njit
def _activate_backward(gradient: Any, slope: Any, has_state: Any, of_made: Any, of_state: Any) -> None:
    for i in range(gradient.shape[0]):
        for j in range(gradient.shape[1]):
            passed = gradient[i, j] if slope[i, j] > 0 else np.float32(0)
            if has_state:
                of_state[i, j] = passed
            of_made[i, j] = passed * np.float32(LEAK) if slope[i, j] == 2 else passed


def _activated(made: Tensor, state: Tensor | None) -> Tensor:
    if made.device.type == "cpu":
        result: Tensor = _Activation.apply(made, state)
        return result
    value = nn.functional.leaky_relu(made, LEAK)
    return rounded((value if state is None else value + state).clamp(-LARGEST, LARGEST), STEP)


class PixelNetwork(nn.Module):
    """Features (n, FEATURES) in units of STEP -> (logits, means, log scales), each (n, mixtures).

    Logits and scales are in octaves; means and scales are relative to the fitted prediction and the local scale. `hidden` lists
    the widths; a layer as wide as the one before is added to it. The last layer sees the features too.
    """

    def __init__(self, hidden: list[int], mixtures: int) -> None:
        super().__init__()
        self.mixtures = mixtures
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip([FEATURES, *hidden[:-1]], hidden, strict=True))
        self.out = nn.Linear(hidden[-1] + FEATURES, 3 * mixtures)
        with torch.no_grad():
            self.out.weight *= 0.1
            self.out.weight[:, hidden[-1] :] = 0
            self.out.bias.zero_()
            self.out.bias[mixtures : 2 * mixtures] = torch.linspace(-0.5, 0.5, mixtures)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = features
        for layer in self.hidden:
            made = _linear(layer, state)
            state = _activated(made, state if made.shape == state.shape and layer is not self.hidden[0] else None)
        logit, mean, scale = _linear(self.out, torch.cat([state, features], 1)).view(-1, 3, self.mixtures).unbind(1)
        return logit, mean, scale


def _linear(layer: nn.Linear, value: Tensor) -> Tensor:
    return nn.functional.linear(value, rounded(layer.weight, torch.exp2(-weight_shift(layer.weight))), layer.bias)


def bits(network: nn.Module, batch: Batch, gaussian: bool = False) -> Tensor:
    """Bits of each sample (n,) under its mixture of logistics or Gaussians; what lies outside the values counts as its ends.

    `network` gives what a PixelNetwork gives.
    """
    device = next(network.parameters()).device
    logit, mean, log_scale = network(torch.from_numpy(batch.features).to(device).float() * STEP)
    unit = torch.exp2(torch.from_numpy(batch.scale).to(device).float() / 16)[:, None]
    deviation = (unit * torch.exp2(log_scale.clamp(-8, 6))).clamp(min=1.0)
    difference = torch.from_numpy(batch.position - batch.predicted).to(device).float()[:, None] - mean * unit
    lowest = torch.from_numpy(batch.position <= 0).to(device)[:, None]
    highest = torch.from_numpy(batch.position >= batch.top).to(device)[:, None]
    above = ((difference + 8) / deviation).masked_fill(highest, 1e4)
    below = ((difference - 8) / deviation).masked_fill(lowest, -1e4)
    # Both tails are computed where they are small, so that differences keep their precision.
    cdf = torch.special.ndtr if gaussian else torch.sigmoid
    mass = torch.where(below > 0, cdf(-below) - cdf(-above), cdf(above) - cdf(below))
    share = torch.softmax(logit * 0.6931471805599453, 1)
    values = torch.from_numpy(batch.top).to(device).float() / 16 + 1
    return -torch.log2((share * mass).sum(1) * (1 - 1e-4) + 1e-4 / values)
