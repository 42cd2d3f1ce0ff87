"""The integers of `medzip.entropy_model.llm_exact` from the floats of a trained `NeighbourNetwork`, without more training.

Weights become int8, one scale for each output; norms' weights go into the layers behind them. Keys, values and the products in
the MLP have fixed scales, for which `Range` holds the largest numbers that training data gave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medzip.entropy_model.llm.network import NeighbourNetwork
from medzip.entropy_model.llm.offsets import NEIGHBOURS
from medzip.entropy_model.llm_exact import arithmetic
from medzip.entropy_model.llm_exact.arithmetic import GATE_BITS, OCTAVE_BITS, ROOT_BITS
from medzip.entropy_model.llm_exact.features import BYTE_MAX, DEVIATION, FLAG, UNIT_BITS
from medzip.entropy_model.llm_exact.network import (
    HALF_BITS,
    MULTIPLIER_MAX,
    NORM_BITS,
    VALUE_BITS,
    Layer,
    Network,
    Scaled,
    score_shift,
)
from medzip.exact.linear import Linear
from medzip.exact.mixture import POSITION_BITS

Floats = NDArray[np.float64]

STREAM_BITS = 12
"""The residual stream is in units of 2^-12."""
HEADROOM = 1.25
"""Keys and values of other scans may be so much larger than any of the calibration's before they saturate."""
UP_BITS = 8
PRODUCT_BITS = 20
"""The largest product of gate and value in calibration has so many bits, four fewer than would saturate."""

# What one unit of a feature stands for, and what its zero does: FEATURES as `describe` and as `look` give them.
_UNIT = [2.0**-UNIT_BITS] * len(NEIGHBOURS) + [0.1 / DEVIATION, 1 / 16, 1 / 64, 1 / 64, 1 / BYTE_MAX, 1 / FLAG, 1 / FLAG]
_ZERO = [0.0] * len(NEIGHBOURS) + [0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@dataclass
class Range:
    """The largest magnitudes of a layer's keys, values, and products of gate and value where the norm's rows are bytes."""

    key: float = 1e-3
    value: float = 1e-3
    product: float = 1e-3


def quantized(network: NeighbourNetwork, ranges: list[Range]) -> Network:
    """The exact network. Raises ValueError for a backbone other than a Llama with one key/value head and plain rotation."""
    config = network.config.backbone
    if config["model_type"] != "llama" or config["num_key_value_heads"] != 1:
        raise ValueError("expected a Llama with one key/value head")
    state = {name: weight.detach().double().cpu().numpy() for name, weight in network.state_dict().items()}
    unit, zero = np.array(_UNIT), np.array(_ZERO)
    embedding = np.concatenate([state["embed.weight"], state["head.skip.weight"]])
    embed, embed_shift = _scaled(embedding * unit, np.full(len(embedding), 2.0**STREAM_BITS))
    channel = state["channel.weight"] + state["embed.bias"] + embedding[:-1] @ zero
    components = network.config.components
    units = np.repeat([16 / math.log(2), 2.0**POSITION_BITS, 16.0], components)
    head, head_shift = _scaled(
        state["head.project.weight"] * state["backbone.norm.weight"], units * 2.0 ** (NORM_BITS - ROOT_BITS)
    )
    bias = state["head.project.bias"].copy()
    bias[components : 2 * components] += float(embedding[-1] @ zero)
    size = int(config["head_dim"])
    frequency = rope_theta(config) ** (-2 * np.arange(size // 2) / size)
    return Network(
        embed,
        _table(state["row.weight"] * 2**STREAM_BITS),
        _table(state["column.weight"] * 2**STREAM_BITS),
        _table(channel * 2**STREAM_BITS),
        tuple(_layer(state, f"backbone.layers.{i}.", size, found) for i, found in enumerate(ranges)),
        head,
        _table(bias * units),
        _table(np.stack([np.cos(frequency), np.sin(frequency)], axis=1) * 2**arithmetic.ROTOR_BITS),
        embed_shift,
        head_shift,
    )


def rope_theta(config: dict[str, Any]) -> float:
    return float(config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 10000.0)


def _layer(state: dict[str, Floats], name: str, size: int, found: Range) -> Layer:
    attention, mlp = f"{name}self_attn.", f"{name}mlp."
    key_unit, value_unit = (HEADROOM * largest / BYTE_MAX for largest in (found.key, found.value))
    query, key, value = (state[f"{attention}{part}_proj.weight"] * state[f"{name}input_layernorm.weight"] for part in "qkv")
    # Queries come in whatever unit makes the most of their multipliers.
    most = max(np.abs(key).max() / key_unit, np.abs(value).max() / value_unit)
    query_factor = most / np.abs(query).max()
    factors = [query_factor] * len(query) + [1 / key_unit] * size + [1 / value_unit] * size
    qkv, qkv_shift = _scaled(np.concatenate([query, key, value]), np.array(factors))
    score = key_unit / query_factor / math.sqrt(size) / math.log(2) * 2.0 ** (OCTAVE_BITS - ROOT_BITS + score_shift(size))
    score_bits = _bits(score)
    weight = state[f"{attention}o_proj.weight"]
    out, out_shift = _scaled(weight, np.full(len(weight), value_unit * 2.0 ** (STREAM_BITS - VALUE_BITS)))

    gate, up = (state[f"{mlp}{part}_proj.weight"] * state[f"{name}post_attention_layernorm.weight"] for part in ("gate", "up"))
    gates, gate_shift = _scaled(gate, np.full(len(gate), 2.0 ** (GATE_BITS + NORM_BITS - ROOT_BITS)))
    ups, up_shift = _scaled(up, np.full(len(up), 2.0**UP_BITS))
    product_shift = max(math.ceil(math.log2(found.product)) + GATE_BITS + UP_BITS - PRODUCT_BITS, 0)
    weight = state[f"{mlp}down_proj.weight"]
    down_unit = 2.0 ** (product_shift - GATE_BITS - UP_BITS - ROOT_BITS + STREAM_BITS + HALF_BITS)
    down, down_shift = _scaled(weight, np.full(len(weight), down_unit))
    gate_up = Scaled(
        Linear(np.concatenate([gates.linear.weight, ups.linear.weight]), np.zeros(2 * len(gate), np.int32)),
        np.concatenate([gates.multiplier, ups.multiplier]),
    )
    return Layer(
        qkv, out, gate_up, down, qkv_shift, out_shift, gate_shift, up_shift, product_shift, down_shift,
        round(score * 2.0**score_bits), score_bits,
    )  # fmt: skip


def _scaled(weight: Floats, factor: Floats) -> tuple[Scaled, int]:
    """A layer whose sums times multipliers over 2^shift are `factor` times those of `weight`, and that shift."""
    step = np.maximum(np.abs(weight).max(axis=1), 1e-12) / BYTE_MAX
    bytes_ = np.round(weight / step[:, None]).astype(np.int8)
    wanted = step * factor
    bits = _bits(float(wanted.max()))
    return Scaled(Linear(bytes_, np.zeros(len(weight), np.int32)), np.round(wanted * 2.0**bits).astype(np.int32)), bits


def _bits(number: float) -> int:
    """The largest n for which `number` 2^n is a multiplier."""
    return math.floor(math.log2(MULTIPLIER_MAX / number))


def _table(numbers: Floats) -> NDArray[np.int32]:
    return np.round(numbers).astype(np.int32)


def calibrated(network: NeighbourNetwork, batches: list[Tensor]) -> list[Range]:
    """The ranges of all layers for features (patches, tokens, FEATURES)."""
    config = network.config.backbone
    ranges = [Range() for _ in range(int(config["num_hidden_layers"]))]
    hooks = [
        hook
        for layer, found in zip(network.backbone.layers, ranges, strict=True)  # type: ignore[arg-type]  # a module list
        for hook in _hooks(layer, found)
    ]
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for hook in hooks:
        hook.remove()
    return ranges


def _hooks(layer: Any, found: Range) -> list[Any]:
    """Rotation keeps the length of each pair of a key's numbers, which bounds both wherever it stands."""

    def seen_key(_module: Any, _inputs: Any, key: Tensor) -> None:
        pairs = torch.stack(key.chunk(2, dim=-1))
        found.key = max(found.key, float(pairs.norm(dim=0).max()))

    def seen_value(_module: Any, _inputs: Any, value: Tensor) -> None:
        found.value = max(found.value, float(value.abs().max()))

    def seen_products(_module: Any, inputs: tuple[Tensor]) -> None:
        # With norm rows as bytes, values are larger by 127 at most.
        found.product = max(found.product, BYTE_MAX * float(inputs[0].abs().max()))

    return [
        layer.self_attn.k_proj.register_forward_hook(seen_key),
        layer.self_attn.v_proj.register_forward_hook(seen_value),
        layer.mlp.down_proj.register_forward_pre_hook(seen_products),
    ]
