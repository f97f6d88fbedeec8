"""The layers a transformer is built from, as a bundle of factories: plain torch here, Megatron's in `parallel/layers.py`.

The model is code for one device; it asks the bundle for its matrices and never knows how they are split. A *column*
layer keeps only this rank's share of its outputs, a *row* layer takes such a share and returns the whole sum. Within the
trunk the slots of a row can be divided over ranks, too: l = L / ranks.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn


class Layers(Protocol):
    """What a transformer needs of its layers. `tensor_parallel` ranks share each one."""

    tensor_parallel: int

    def column(self, inputs: int, outputs: int) -> nn.Module:
        """(…, inputs) → (…, outputs / tensor_parallel), no bias."""

    def row(self, inputs: int, outputs: int) -> nn.Module:
        """(…, inputs / tensor_parallel) → (…, outputs), no bias."""

    def embedding(self, entries: int, width: int) -> nn.Module:
        """Ids (…) → (…, width)."""

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits (…, entries / tensor_parallel), targets (…) → nats (…), in fp32."""

    def over_heads(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight that all ranks hold and that sees this rank's heads: gradients add up over the tensor-parallel ranks."""

    def over_slots(self, weight: torch.Tensor) -> torch.Tensor:
        """The same for a weight of the trunk that sees this rank's slots."""

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) → this rank's slots of it (B, l, D), at the trunk's entry."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(B, l, D) → (B, L, D), at the trunk's exit."""

    def slots_to_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Some slots of this rank's heads → all slots of some of them: (B, c, N, K) → (B, L, n, K), before attention."""

    def heads_to_slots(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse, after attention."""


class DenseLayers:
    """One device: `nn.Linear`, `nn.Embedding`, `F.cross_entropy`."""

    tensor_parallel = 1

    def column(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs, bias=False)

    def row(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs, bias=False)

    def embedding(self, entries: int, width: int) -> nn.Module:
        return nn.Embedding(entries, width)

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        flat = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none")
        return flat.view(targets.shape)

    def _as_it_is(self, x: torch.Tensor) -> torch.Tensor:
        return x

    over_heads = over_slots = scatter = gather = slots_to_heads = heads_to_slots = _as_it_is
