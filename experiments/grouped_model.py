"""The library's language model for rows whose cells are drawn in groups (experiments/grouped_layout.py)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from experiments.grouped_layout import NO_TARGET, START, GroupedLayout
from hitvideo.llm.cache import KVCache, LayerCache
from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.rope import Rotation, rotate, rotation
from hitvideo.llm.transformer import Attention, Block
from hitvideo.sequence.layout import NO_SLOT, SequenceLayout
from hitvideo.sequence.vocab import NONE
from hitvideo.settings.language_model import LLMSection


class GroupedSlots(NamedTuple):
    """A grouped layout's facts about its n input slots."""

    order: torch.Tensor  # (n,) slot of the raster row that lies there; 0 for START
    start: torch.Tensor  # (n,) whether it is a START slot
    level: torch.Tensor  # (n,) 0 for text, else 1 + level; of a START slot that of its target
    next_level: torch.Tensor  # (n,) the same of what it predicts, or its own level if that is nothing
    turn: Rotation  # (n, K/2) at its own position; a START slot stands where its target will be
    next_turn: Rotation  # (n, K/2) at the position of its target
    ancestors: torch.Tensor  # (n, levels - 1) of its target, as slots of the raster row
    predicts: torch.Tensor  # (length - 1,) the slot that predicts each cell but the first
    mask: torch.Tensor | None  # (n, n) whether a slot (rows) sees another (columns); None: the lower triangle


class MaskedAttention(Attention):
    """Attention under a mask of its own; without one, causal as in the library."""

    mask: torch.Tensor | None = None
    """(n, n): whether a query (rows) sees a key (columns)."""

    def forward(self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: LayerCache | None) -> torch.Tensor:
        if self.mask is None:
            return super().forward(x, turn_q, turn_k, cache)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv(x))  # (B, n, N, K), k and v (B, n, Nkv, K)
        q, k = rotate(self.q_norm(q), turn_q), rotate(self.k_norm(k), turn_k)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=q.shape[1] != k.shape[1])
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class GroupedModel(LanguageModel):
    """A LanguageModel whose `hidden` computes in the order of a grouped layout, and returns states in raster order.

    So the loss is inherited. All weights have the names and initial values of the library's model; `start` comes on top.
    """

    def __init__(self, llm: LLMSection, layout: SequenceLayout) -> None:
        super().__init__(llm, layout)
        self.start = nn.Embedding(len(layout.grids), llm.width)
        for block in self.trunk.blocks:
            assert isinstance(block, Block)
            block.attention = MaskedAttention(llm, DenseLayers())

    def use(self, grouped: GroupedLayout) -> None:
        """Compute in this order from now on."""
        self.grouped = grouped_slots(grouped, self.layout, self.section)
        for block in self.trunk.blocks:
            assert isinstance(block, Block)
            assert isinstance(block.attention, MaskedAttention)
            block.attention.mask = self.grouped.mask

    def hidden(
        self, ids: torch.Tensor, start: int = 0, cache: KVCache | None = None, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Raster rows without EOV (B, length - 1, S) → (B, length - 1, D); state i predicts cell i + 1 of the raster row."""
        assert (start, cache, rows) == (0, None, None), "whole rows only"
        slots = self.grouped
        held = ids[:, slots.order]  # (B, n, S)
        unused = held == NONE
        unused[..., 0] = False
        unused = (unused | slots.start[:, None]).unsqueeze(-1)
        x = self.embedding(held).masked_fill(unused, 0.0).sum(dim=2)  # (B, n, D)
        x = x + self.level(slots.level) + self.next_level(slots.next_level)
        if slots.start.any():
            x = x + self.start((slots.level - 1).clamp(min=0)).masked_fill(~slots.start[:, None], 0.0)
        if self.ancestor is not None:
            x = x + self._ancestors(ids, slots.ancestors)
        out: torch.Tensor = self.trunk(x, slots.next_turn, slots.turn)
        return out[:, slots.predicts]


def grouped_slots(grouped: GroupedLayout, layout: SequenceLayout, llm: LLMSection) -> GroupedSlots:
    order, target = torch.from_numpy(grouped.order), torch.from_numpy(grouped.target)
    levels, positions = torch.from_numpy(layout.levels) + 1, torch.from_numpy(layout.positions)
    start, nothing = order == START, target == NO_TARGET
    at, to = torch.where(start, target, order), torch.where(nothing, order, target)
    ancestors = torch.from_numpy(layout.ancestors)[to].masked_fill(nothing[:, None], NO_SLOT)
    own, after = (rotation(positions[cells], llm.turned_axes, llm.rope_theta) for cells in (at, to))
    mask = torch.from_numpy(grouped.mask)
    dense = None if mask.equal(torch.ones_like(mask).tril()) else mask
    predicts = torch.from_numpy(grouped.predicts)
    return GroupedSlots(order.clamp(min=0), start, levels[at], levels[to], own, after, ancestors, predicts, dense)
