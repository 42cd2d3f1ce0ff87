"""A KV cache whose rows stand at different positions, and the attention that reads it.

transformers' own caches keep all rows of a batch at one position. Here each row (slot) holds a patch of its own, which
started at its own step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ATTENTION = "medzip_slots"


class SlotCache:
    """Keys (layers, slots, key/value heads, head size, length), the way they are multiplied, and values (layers, slots,
    key/value heads, length, head size); stands in for a transformers Cache."""

    def __init__(self, layers: int, slots: int, heads: int, length: int, head_size: int) -> None:
        self.keys = torch.zeros(layers, slots, heads, head_size, length)
        self.values = torch.zeros(layers, slots, heads, length, head_size)
        self._slots = torch.arange(slots)
        self._positions = self._slots
        self._reach = 0

    def at(self, positions: Tensor) -> Tensor:
        """Set where each slot's next token goes, (slots,); gives the mask (slots, 1, 1, reach) that hides what is later."""
        self._positions, self._reach = positions, int(positions.max()) + 1
        later = torch.arange(self._reach) > positions[:, None]
        return torch.zeros(later.shape).masked_fill_(later, -torch.inf)[:, None, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with its new (slots, heads, 1, head size)."""
        self.keys[layer][self._slots, :, :, self._positions] = keys[:, :, 0]
        self.values[layer][self._slots, :, self._positions] = values[:, :, 0]
        return self.keys[layer][..., : self._reach].transpose(2, 3), self.values[layer][:, :, : self._reach]

    def get_seq_length(self, *_: Any) -> int:
        return self._reach


class PrefixCache:
    """Fills the first positions of some slots of a SlotCache with whole prefixes."""

    def __init__(self, cache: SlotCache, slots: Tensor) -> None:
        self._cache, self._slots = cache, slots

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self._cache.keys[layer][self._slots, :, :, : keys.shape[2]] = keys.transpose(2, 3)
        self._cache.values[layer][self._slots, :, : values.shape[2]] = values
        return keys, values

    def get_seq_length(self, *_: Any) -> int:
        return 0


def attend(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention in plain matrix products, heads that share keys folded into one product.

    `query` (slots, heads, tokens, size), `key` and `value` (slots, key/value heads, reach, size); gives (slots, tokens,
    heads, size). One order of operations whatever the shapes, so that encoder and decoder run the same kernels.
    """
    slots, heads, tokens, size = query.shape
    shared = key.shape[1]
    batch, rows = slots * shared, heads // shared * tokens
    products = query.reshape(batch, rows, size), key.transpose(2, 3).flatten(0, 1)
    if mask is None:
        scores = torch.bmm(*products).mul_(scaling)
    else:
        hidden = mask.expand(slots, shared, tokens, -1).flatten(0, 1)
        scores = torch.baddbmm(hidden if tokens == 1 else hidden.repeat(1, heads // shared, 1), *products, alpha=scaling)
    out = torch.bmm(torch.softmax(scores, -1), value.flatten(0, 1)).view(slots, heads, tokens, size)
    return out.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make `attend` known to transformers under the name ATTENTION."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
