"""Factories of a transformer's layers: plain torch here, Megatron's in `parallel/layers.py`.

The model is written for one device and gets its matrices from such a bundle, without knowing how they are split. A
*column* layer returns this rank's share of its outputs; a *row* layer takes such a share and returns the whole sum. In
the trunk the slots of a row can be split over ranks too: l = L / ranks.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn


class Layers(Protocol):
    """The factories and collectives that a transformer uses."""

    tensor_parallel: int
    """Number of ranks that share each matrix."""

    def column(self, inputs: int, outputs: int) -> nn.Module:
        """(…, inputs) → (…, outputs / tensor_parallel), no bias."""

    def row(self, inputs: int, outputs: int) -> nn.Module:
        """(…, inputs / tensor_parallel) → (…, outputs), no bias."""

    def embedding(self, entries: int, width: int) -> nn.Module:
        """Ids (…) → (…, width)."""

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits (…, entries / tensor_parallel), targets (…) → nats (…), in fp32."""

    def over_heads(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight that every rank holds and applies to its own heads: tensor-parallel ranks sum its gradients."""

    def over_slots(self, weight: torch.Tensor) -> torch.Tensor:
        """The same for a weight that every rank applies to its own slots of the trunk."""

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) → this rank's slots of it (B, l, D), at the trunk's entry."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(B, l, D) → (B, L, D), at the trunk's exit."""

    def slots_to_heads(self, x: torch.Tensor) -> torch.Tensor:
        """This rank's slots of N heads → all slots of n of those heads: (B, c, N, K) → (B, L, n, K), before attention."""

    def heads_to_slots(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `slots_to_heads`, after attention."""


class DenseLayers:
    """The layers of one device: `nn.Linear`, `nn.Embedding`, `F.cross_entropy`."""

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

    def _unchanged(self, x: torch.Tensor) -> torch.Tensor:
        return x

    over_heads = over_slots = scatter = gather = slots_to_heads = heads_to_slots = _unchanged  # one rank holds everything
