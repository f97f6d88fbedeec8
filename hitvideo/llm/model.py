"""The text + video language model over one SequenceLayout.

Input of a slot: the sum of its ids' embeddings, an embedding of its level, and one of the level it predicts.
A key stands at its own slot's position, a query at the position of the slot it predicts: the cell to be drawn looks at
its coarser parent and its neighbours at offset zero. Attention is plain causal; heads run only on their level's slots.
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
    """What the layout says of each of the length - 1 input slots, on the model's device."""

    level: torch.Tensor  # (L,) 0 text, 1 + level otherwise
    next_level: torch.Tensor  # (L,) of the slot that it predicts
    turn: Rotation  # (L, K/2) at its own position
    next_turn: Rotation  # (L, K/2) at the position of the slot that it predicts


class LanguageModel(nn.Module):
    """See the module's docstring. `trunk_layers`: the trunk's, where they are others than those of embedding and heads."""

    def __init__(
        self,
        section: LLMSection,
        layout: SequenceLayout,
        layers: Layers | None = None,
        trunk_layers: Layers | None = None,
        recompute: Recompute = "none",
    ) -> None:
        super().__init__()
        layers = layers or DenseLayers()
        vocab, bits = layout.vocab, [tuple(b.bits for b in row) for row in layout.vocab.ranges]
        self.section = section
        self.layout = layout
        self.layers = layers
        self.embedding = layers.embedding(vocab.size, section.width)
        self.level = nn.Embedding(1 + len(layout.grids), section.width)
        self.next_level = nn.Embedding(1 + len(layout.grids), section.width)
        self.trunk = Transformer(section, trunk_layers or layers, recompute)
        self.text_head = layers.column(section.width, vocab.text_size)
        self.heads = nn.ModuleList(LevelHead(section.width, b, section.norm_eps, layers) for b in bits)
        self._slots: dict[torch.device, Slots] = {}

    def slots(self, device: torch.device) -> Slots:
        """Computed in fp64/fp32 outside any cast of the parameters, once for each device."""
        if device not in self._slots:
            levels = torch.from_numpy(self.layout.levels).to(device) + 1
            turn = rotation(
                torch.from_numpy(self.layout.positions).to(device), self.section.rope_axes, self.section.rope_theta
            )
            own, after = Rotation(turn.cos[:-1], turn.sin[:-1]), Rotation(turn.cos[1:], turn.sin[1:])
            self._slots[device] = Slots(levels[:-1], levels[1:], own, after)
        return self._slots[device]

    def hidden(self, ids: torch.Tensor, start: int = 0, cache: KVCache | None = None) -> torch.Tensor:
        """ids (B, n, S) of the slots start … start + n → hidden states (B, n, D), each for predicting the next slot."""
        slots, span = self.slots(ids.device), slice(start, start + ids.shape[1])
        unused = (ids == NONE).unsqueeze(-1)  # (B, n, S, 1)
        unused[..., 0, :] = False  # column 0 always counts: padding there is a symbol like another
        x = self.embedding(ids).masked_fill(unused, 0.0).sum(dim=2)  # (B, n, D)
        x = x + self.level(slots.level[span]) + self.next_level(slots.next_level[span])
        turn_q = Rotation(*(part[span] for part in slots.next_turn))
        turn_k = Rotation(*(part[span] for part in slots.turn))
        out: torch.Tensor = self.trunk(x, turn_q, turn_k, cache)
        return out

    def forward(self, rows: torch.Tensor, text_weight: float, level_balance: float = 0.0) -> dict[str, torch.Tensor]:
        """rows (B, length, S) of ids → scalars in fp32.

        `loss` (to minimise): mean nats over all video slots + text_weight × mean nats of a caption's pieces. With
        `level_balance` b the mean over slots is weighted b : 1 - b with the mean of the levels' own means.
        `loss_text`, `loss_level_k`: mean nats per piece and per index of level k. Every mean is one over rows of
        equal size, so it splits over micro-batches and ranks without a remainder.
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
        weight = self.level.weight
        section = self.section
        kv_heads = section.kv_heads // self.layers.tensor_parallel
        return KVCache(
            section.layers, batch, self.layout.length, kv_heads, section.head_dim, weight.dtype, weight.device
        )
