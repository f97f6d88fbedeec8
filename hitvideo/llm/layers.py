"""The layers a transformer is built from, as a bundle of factories: plain torch here, Megatron's in `parallel/layers.py`.

The model is code for one device; it asks the bundle for its matrices and never knows how they are split. A *column*
layer keeps only this rank's share of its outputs, a *row* layer takes such a share and returns the whole sum.
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

    def shared(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight held by all tensor-parallel ranks whose activations differ between them: gradients add up."""


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

    def shared(self, weight: torch.Tensor) -> torch.Tensor:
        return weight
