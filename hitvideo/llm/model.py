"""The language model of captions and videos, for rows of one SequenceLayout.

The input of a slot is the sum of its ids' embeddings, an embedding of its level, and one of the level it predicts. For
RoPE a key has its own slot's position and a query that of the slot it predicts, so a cell's parent on a coarser level is
near offset zero. Attention is plain causal; each head runs only on its level's slots.

With `llm.ancestors` the input also has the sum of embeddings of the ids, on all coarser levels, of the cells that cover the
one to be predicted. In a residual pyramid a fine code corrects what these add up to. They have an embedding of their own,
because an id means another thing there than in the cell that was drawn last; one for all distances is enough, because every
level has ids of its own and the input knows which level it predicts.

With `llm.groups` the model also reads rows in the order of their groups (sequence/groups.py), under the mask of that order. It
needs no weights of its own: START slots, which hold no ids, are the sum of their two levels' embeddings and of the ancestors'.
"""

from __future__ import annotations

import torch
from torch import nn

from hitvideo.llm.cache import KVCache
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.layers import DenseLayers, Layers
from hitvideo.llm.recompute import Recompute
from hitvideo.llm.rope import Rotation
from hitvideo.llm.slots import GroupedSlots, Slots, grouped_slots, raster_slots
from hitvideo.llm.transformer import Transformer
from hitvideo.sequence.layout import NO_SLOT, SequenceLayout
from hitvideo.sequence.vocab import NONE, PAD
from hitvideo.settings.language_model import LLMSection


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
        self.ancestor: nn.Module | None = None
        if llm.ancestors and bits[:-1]:
            self.ancestor = layers.embedding(sum(1 << b for row in bits[:-1] for b in row), llm.width)
        self.trunk = Transformer(llm, trunk_layers or layers, recompute)
        self.text_head = layers.column(llm.width, vocab.text_size)
        self.heads = nn.ModuleList(LevelHead(llm.width, b, llm.norm_eps, layers) for b in bits)
        self._slots: dict[torch.device, Slots] = {}
        self._grouped: dict[torch.device, GroupedSlots] = {}

    def slots(self, device: torch.device) -> Slots:
        """The `Slots` of raster order on a device."""
        if device not in self._slots:
            self._slots[device] = raster_slots(self.layout, self.section, device)
        return self._slots[device]

    def grouped_slots(self, device: torch.device) -> GroupedSlots:
        """The slots of the order of llm.groups on a device; the layout must have one."""
        if device not in self._grouped:
            assert self.layout.grouped is not None, "the layout has no groups"
            self._grouped[device] = grouped_slots(self.layout.grouped, self.layout, self.section, device)
        return self._grouped[device]

    def hidden(
        self, ids: torch.Tensor, start: int = 0, cache: KVCache | None = None, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """ids (B, n, S) of the slots start … start + n - 1 → hidden states (B, n, D), each of which predicts the next slot.

        `rows` (B, at least start + n, S): the rows from slot 0 on, which hold `ids` too; needed if `ids` does not begin at
        slot 0, because ancestors are anywhere before it. What they hold after these slots is not looked at.
        """
        assert rows is not None or start == 0 or self.ancestor is None, "with llm.ancestors it needs the rows from slot 0 on"
        span = slice(start, start + ids.shape[1])
        return self._states(self.embedded(ids), ids if rows is None else rows, self.slots(ids.device), span, cache)

    def grouped_hidden(
        self, rows: torch.Tensor, start: int = 0, stop: int | None = None, cache: KVCache | None = None
    ) -> torch.Tensor:
        """Raster rows (B, …, S) → states (B, stop - start, D) of the slots start … stop - 1 (all by default) of grouped order.

        The rows hold what these slots hold, and their ancestors; what else they hold is not looked at.
        """
        slots = self.grouped_slots(rows.device)
        stop = len(slots.order) if stop is None else stop
        span = slice(start, stop)
        x = self.embedded(rows[:, slots.order[span]]).masked_fill(slots.start[span, None], 0.0)
        return self._states(x, rows, slots.slots, span, cache, None if slots.mask is None else slots.mask[span, :stop])

    def _states(
        self,
        x: torch.Tensor,
        rows: torch.Tensor,
        slots: Slots,
        span: slice,
        cache: KVCache | None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embedded ids (B, n, D) of the slots in `span` → their hidden states, seeing each other and the cache by `mask`."""
        x = x + self.level(slots.level[span]) + self.next_level(slots.next_level[span])
        if self.ancestor is not None:
            x = x + self.ancestors_of(rows, slots.ancestors[span])
        turn_q = Rotation(*(part[span] for part in slots.next_turn))
        turn_k = Rotation(*(part[span] for part in slots.turn))
        out: torch.Tensor = self.trunk(x, turn_q, turn_k, cache, mask)
        return out

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, n, S) → the sum of their embeddings (B, n, D)."""
        unused = (ids == NONE).unsqueeze(-1)  # (B, n, S, 1)
        unused[..., 0, :] = False  # PAD in column 0 is a symbol with an embedding
        embedded: torch.Tensor = self.embedding(ids).masked_fill(unused, 0.0).sum(dim=2)
        return embedded

    def ancestors_of(self, rows: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """The sum of the embeddings of ancestors: rows (B, …, S), their slots (n, levels - 1) → (B, n, D)."""
        assert self.ancestor is not None
        found = torch.zeros((), device=rows.device)
        for slots in table.unbind(1):  # one level after the other: no tensor of all levels' embeddings
            ids = rows[:, slots.clamp(min=0)]  # (B, n, S)
            unused = (ids == NONE) | (slots == NO_SLOT)[:, None]
            embedded = self.ancestor((ids - self.layout.vocab.text_size).masked_fill(unused, 0))
            found = found + embedded.masked_fill(unused.unsqueeze(-1), 0.0).sum(dim=2)
        return found

    def forward(
        self,
        rows: torch.Tensor,
        text_weight: float,
        level_balance: float = 0.0,
        seen: torch.Tensor | None = None,
        grouped: bool = False,
    ) -> dict[str, torch.Tensor]:
        """rows (B, length, S) of ids → scalars in fp32. `seen`: the rows as the input shows them, by default the same.

        `grouped`: predict each cell from what the order of the groups has before it, instead of raster order.

        `loss` (to minimise): (1 - b) × mean nats over video slots + b × mean over levels of their mean nats + text_weight ×
        mean nats of a caption's pieces, with b = `level_balance`. `loss_text`, `loss_level_k`: mean nats per piece and per
        index of level k. Each is a mean over rows, so means over equal micro-batches and ranks average to it exactly.
        """
        shown = (rows if seen is None else seen)[:, :-1]
        if grouped:
            hidden = self.grouped_hidden(shown)[:, self.grouped_slots(rows.device).predicts]
        else:
            hidden = self.hidden(shown)  # (B, L, D); slot i predicts slot i + 1
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

    def new_cache(self, batch: int, length: int | None = None) -> KVCache:
        """An empty cache for `batch` rows of `length` slots (the whole row's by default), on the model's device."""
        weight, llm = self.level.weight, self.section
        kv_heads = llm.kv_heads // self.layers.tensor_parallel
        slots = self.layout.length if length is None else length
        return KVCache(llm.layers, batch, slots, kv_heads, llm.head_dim, weight.dtype, weight.device)
