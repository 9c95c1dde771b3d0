"""Computes the least cost of a decision: FLOPs and bytes of each part of a Qwen2.5-VL, from its shape.

A machine that computes ``flops_per_s`` and moves ``bytes_per_s`` needs at least the larger one of
FLOPs / flops_per_s and bytes / bytes_per_s (Williams et al., 2009). Multiply-adds count as two.
Norms, rotations and activations are left out: they are below one percent of the FLOPs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5_VLConfig

_MLP_MATRICES = 3  # gate, up, down
_ATTENTION_MATRICES = 4  # query, key, value, output


@dataclass(frozen=True)
class Cost:
    """What a part computes and what it reads."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Peak:
    """What a machine can do.

    Attributes:
        source: where the figures come from.
    """

    flops_per_s: float
    bytes_per_s: float
    source: str

    def least_s(self, cost: Cost) -> float:
        """The roofline: no program is faster."""
        return max(cost.flops / self.flops_per_s, cost.bytes / self.bytes_per_s)

    def bound(self, cost: Cost) -> str:
        """What the roofline is made of."""
        compute = cost.flops / self.flops_per_s >= cost.bytes / self.bytes_per_s
        return "compute" if compute else "memory"


PUBLISHED = {
    "H100 PCIe": Peak(756e12, 2.0e12, "published, dense bf16"),
    "H100": Peak(989e12, 3.35e12, "published, dense bf16"),
    "H200": Peak(989e12, 4.8e12, "published, dense bf16"),
    "RTX 4090": Peak(165.2e12, 1.008e12, "published, dense bf16"),
    "Orin": Peak(42.5e12, 204.8e9, "published, AGX 64 GB, GPU only, dense fp16"),
    "Thor": Peak(258e12, 273e9, "published, T5000, a quarter of the dense fp4 figure"),
}
"""By part of the device's name, the first that fits."""


@dataclass(frozen=True)
class Roofline:
    """Costs of one network, its weights and cache in a format of ``item_bytes``."""

    config: Qwen2_5_VLConfig
    item_bytes: int

    @property
    def _text(self) -> Any:
        return self.config.text_config

    @property
    def _vision(self) -> Any:
        return self.config.vision_config

    @property
    def decoder_weights(self) -> int:
        """Of the matrices of all layers, without embedding and head."""
        t = self._text
        head = t.hidden_size // t.num_attention_heads
        attention = t.hidden_size * head * (2 * t.num_attention_heads + 2 * t.num_key_value_heads)
        return int((attention + _MLP_MATRICES * t.hidden_size * t.intermediate_size) * t.num_hidden_layers)

    @property
    def token_bytes(self) -> int:
        """Of one token's keys and values."""
        t = self._text
        head = t.hidden_size // t.num_attention_heads
        return int(2 * t.num_hidden_layers * t.num_key_value_heads * head * self.item_bytes)

    def decoder(self, queries: int, slots: int) -> Cost:
        """One forward of ``queries`` tokens, behind which the cache holds ``slots``."""
        t = self._text
        visible = slots - queries / 2  # on average
        attention = 4.0 * t.hidden_size * t.num_hidden_layers * queries * visible
        read = self.decoder_weights * self.item_bytes + slots * self.token_bytes
        return Cost(2.0 * self.decoder_weights * queries + attention, read)

    def head(self, rows: int) -> Cost:
        """Scores of the whole vocabulary for ``rows`` tokens."""
        weights = self._text.vocab_size * self._text.hidden_size
        return Cost(2.0 * weights * rows, weights * self.item_bytes)

    def vision(self, grid_h: int, grid_w: int) -> Cost:
        """One picture of ``grid_h x grid_w`` patches through the vision tower."""
        v = self._vision
        patches = grid_h * grid_w
        block = _ATTENTION_MATRICES * v.hidden_size**2 + _MLP_MATRICES * v.hidden_size * v.intermediate_size
        side = v.window_size // v.patch_size
        # Pairs that see each other: within a window, those at the lower and right edge being smaller.
        rows = [min(side, grid_h - i) ** 2 for i in range(0, grid_h, side)]
        columns = [min(side, grid_w - i) ** 2 for i in range(0, grid_w, side)]
        full = len([i for i in v.fullatt_block_indexes if i < v.depth])
        pairs = (v.depth - full) * sum(rows) * sum(columns) + full * patches**2
        embedding = v.in_channels * v.temporal_patch_size * v.patch_size**2 * v.hidden_size
        merged = v.hidden_size * v.spatial_merge_size**2
        merger = merged * merged + merged * v.out_hidden_size
        linear = patches * (v.depth * block + embedding) + patches / v.spatial_merge_size**2 * merger
        flops = 2.0 * linear + 4.0 * v.hidden_size * pairs
        return Cost(flops, float(v.depth * block + embedding + merger) * self.item_bytes)
