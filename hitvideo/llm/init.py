"""Initial weights, a function of a parameter's name, the seed and its full shape: the same for every parallel layout.

The first matching rule of RULES applies. Matrices are normal with σ = 1/√width, those that write into the residual stream
with σ = 1/√(2·layers·width), so that its variance does not grow with depth (GPT-2). Norms are 1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from hitvideo.llm.fused import shares

RESIDUAL, PLAIN, ONES = "residual", "plain", "ones"
RULES = (
    (r"(^|[._])norm\.weight$", ONES),
    (r"\.(out|down)\.weight$", RESIDUAL),
    (r"\.weight$", PLAIN),
)


def full_shape(parameter: torch.Tensor, tensor_parallel: int, local: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Shape of the undivided parameter, and the dimension it is divided along (-1: none).

    `local`: the shape of this rank's share of it, or of a part of it.
    """
    dim = getattr(parameter, "partition_dim", -1) if getattr(parameter, "tensor_model_parallel", False) else -1
    shape = list(local)
    if dim >= 0:
        shape[dim] *= tensor_parallel
    return tuple(shape), dim


class Law(NamedTuple):
    """What initial weights depend on besides a parameter's name and shape."""

    width: int
    layers: int
    seed: int

    def weight(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """The undivided parameter's initial weights: fp32, on the CPU."""
        rule = next(rule for pattern, rule in RULES if re.search(pattern, name))
        if rule == ONES:
            return torch.ones(*shape)
        variance = self.width if rule == PLAIN else 2 * self.layers * self.width
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randn(*shape, generator=generator).mul_(variance**-0.5)

    def share(self, name: str, shape: Sequence[int], dim: int, rank: int, tensor_parallel: int) -> torch.Tensor:
        """A tensor-parallel rank's part of the same, for a parameter that is divided along `dim` (-1: not divided)."""
        full = self.weight(name, shape)
        return full if dim < 0 else full.chunk(tensor_parallel, dim)[rank]


@torch.no_grad()
def initialize(model: nn.Module, width: int, layers: int, seed: int, rank: int = 0, tensor_parallel: int = 1) -> None:
    """Fill every parameter of a whole model with its initial weights, or with this tensor-parallel rank's share of them."""
    law = Law(width, layers, seed)
    for _, parameter, parts in shares(model):
        rows = torch.split(parameter, [shape[0] for shape in parts.values()])
        for (name, shape), part in zip(parts.items(), rows, strict=True):
            part.copy_(law.share(name, *full_shape(parameter, tensor_parallel, shape), rank, tensor_parallel))
