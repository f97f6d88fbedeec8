"""The language model of captions and videos, for rows of one SequenceLayout.

The input of a slot is the sum of its ids' embeddings, an embedding of its level, and one of the level it predicts. For
RoPE a key has its own slot's position and a query that of the slot it predicts, so a cell's parent on a coarser level is
near offset zero. Attention is plain causal; each head runs only on its level's slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from hitvideo.llm.cache import KVCache
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.layers import DenseLayers, Layers
from hitvideo.llm.rope import Rotation, rotation
from hitvideo.llm.transformer import Recompute, Transformer
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import NONE, PAD
from hitvideo.settings.language_model import LLMSection


class Slots(NamedTuple):
    """The layout's facts about each of the length - 1 input slots, on the model's device."""

    level: torch.Tensor  # (L,) 0 for text, else 1 + level
    next_level: torch.Tensor  # (L,) the same, for the slot it predicts
    turn: Rotation  # (L, K/2) rotation at its own position
    next_turn: Rotation  # (L, K/2) rotation at the position of the slot it predicts


class LanguageModel(nn.Module):
    """A decoder-only transformer with one head for text and one per level; the module's docstring describes it."""

    def __init__(
        self,
        llm: LLMSection,
        layout: SequenceLayout,
        layers: Layers | None = None,
        trunk_layers: Layers | None = None,
        recompute: Recompute = "none",
    ) -> None:
        """`layers`: for embedding and heads, by default DenseLayers; `trunk_layers`: for the trunk, by default `layers`."""
        super().__init__()
        layers = layers or DenseLayers()
        vocab, bits = layout.vocab, [tuple(b.bits for b in row) for row in layout.vocab.ranges]
        self.section = llm
        self.layout = layout
        self.layers = layers
        self.embedding = layers.embedding(vocab.size, llm.width)
        self.level = nn.Embedding(1 + len(layout.grids), llm.width)
        self.next_level = nn.Embedding(1 + len(layout.grids), llm.width)
        self.trunk = Transformer(llm, trunk_layers or layers, recompute)
        self.text_head = layers.column(llm.width, vocab.text_size)
        self.heads = nn.ModuleList(LevelHead(llm.width, b, llm.norm_eps, layers) for b in bits)
        self._slots: dict[torch.device, Slots] = {}

    def slots(self, device: torch.device) -> Slots:
        """The `Slots` on a device; they are not buffers, so that a cast of the model does not reduce their precision."""
        if device not in self._slots:
            levels = torch.from_numpy(self.layout.levels).to(device) + 1
            turn = rotation(torch.from_numpy(self.layout.positions).to(device), self.section.rope_axes, self.section.rope_theta)
            own, after = Rotation(turn.cos[:-1], turn.sin[:-1]), Rotation(turn.cos[1:], turn.sin[1:])
            self._slots[device] = Slots(levels[:-1], levels[1:], own, after)
        return self._slots[device]

    def hidden(self, ids: torch.Tensor, start: int = 0, cache: KVCache | None = None) -> torch.Tensor:
        """ids (B, n, S) of the slots start … start + n - 1 → hidden states (B, n, D), each of which predicts the next slot."""
        slots, span = self.slots(ids.device), slice(start, start + ids.shape[1])
        unused = (ids == NONE).unsqueeze(-1)  # (B, n, S, 1)
        unused[..., 0, :] = False  # PAD in column 0 is a symbol with an embedding
        x = self.embedding(ids).masked_fill(unused, 0.0).sum(dim=2)  # (B, n, D)
        x = x + self.level(slots.level[span]) + self.next_level(slots.next_level[span])
        turn_q = Rotation(*(part[span] for part in slots.next_turn))
        turn_k = Rotation(*(part[span] for part in slots.turn))
        out: torch.Tensor = self.trunk(x, turn_q, turn_k, cache)
        return out

    def forward(self, rows: torch.Tensor, text_weight: float, level_balance: float = 0.0) -> dict[str, torch.Tensor]:
        """rows (B, length, S) of ids → scalars in fp32.

        `loss` (to minimise): (1 - b) × mean nats over video slots + b × mean over levels of their mean nats + text_weight ×
        mean nats of a caption's pieces, with b = `level_balance`. `loss_text`, `loss_level_k`: mean nats per piece and per
        index of level k. Each is a mean over rows, so means over equal micro-batches and ranks average to it exactly.
        """
        hidden = self.hidden(rows[:, :-1])  # (B, L, D); slot i predicts slot i + 1
        starts, window = self.layout.starts, self.layout.window
        losses: dict[str, torch.Tensor] = {}
        text = rows[:, 1:window, 0]  # (B, W-1)
        real = (text != PAD).float()
        nats = self.layers.cross_entropy(self.text_head(hidden[:, : window - 1]), text) * real
        losses["loss_text"] = (nats.sum(1) / real.sum(1).clamp(min=1)).mean()
        over_slots = over_levels = torch.zeros((), device=rows.device)
        for level, head in enumerate(self.heads):
            assert isinstance(head, LevelHead)
            start, stop = starts[level : level + 2]
            nats = head.loss(hidden[:, start - 1 : stop - 1], self.layout.vocab.sub_codes(level, rows[:, start:stop]))
            losses[f"loss_level_{level}"] = nats.mean()
            over_slots = over_slots + nats.sum(1).mean() / (starts[-1] - starts[0])
            over_levels = over_levels + nats.mean() / len(self.heads)
        video = (1 - level_balance) * over_slots + level_balance * over_levels
        losses["loss"] = video + text_weight * losses["loss_text"]
        return losses

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for `batch` rows, in the model's dtype and on its device."""
        weight, llm = self.level.weight, self.section
        kv_heads = llm.kv_heads // self.layers.tensor_parallel
        return KVCache(llm.layers, batch, self.layout.length, kv_heads, llm.head_dim, weight.dtype, weight.device)
