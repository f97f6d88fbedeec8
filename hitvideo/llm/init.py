"""Initial weights, a function of a parameter's name, the seed and its full shape: the same for every parallel layout.

The first matching rule of RULES applies. Matrices are normal with σ = 1/√width, those that write into the residual stream
with σ = 1/√(2·layers·width), so that its variance does not grow with depth (GPT-2). Norms are 1.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import nn

RESIDUAL, PLAIN, ONES = "residual", "plain", "ones"
RULES = (
    (r"(^|[._])norm\.weight$", ONES),
    (r"\.(out|down)\.weight$", RESIDUAL),
    (r"\.weight$", PLAIN),
)


def full_shape(
    parameter: torch.Tensor, tensor_parallel: int, local: Sequence[int] | None = None
) -> tuple[tuple[int, ...], int]:
    """Shape of the undivided parameter, and the dimension it is divided along (-1: none).

    `local` is the shape of this rank's share, needed if the parameter itself is empty (as under ZeRO-3).
    """
    dim = getattr(parameter, "partition_dim", -1) if getattr(parameter, "tensor_model_parallel", False) else -1
    shape = list(local or parameter.shape)
    if dim >= 0:
        shape[dim] *= tensor_parallel
    return tuple(shape), dim


@torch.no_grad()
def initialize(model: nn.Module, width: int, layers: int, seed: int, rank: int = 0, tensor_parallel: int = 1) -> None:
    """Fill every parameter of the model with its initial weights, or with this tensor-parallel rank's share of them."""
    sigma = {PLAIN: width**-0.5, RESIDUAL: (2 * layers * width) ** -0.5}
    for name, parameter in model.named_parameters():
        rule = next(rule for pattern, rule in RULES if re.search(pattern, name))
        if rule == ONES:
            parameter.fill_(1.0)
            continue
        shape, dim = full_shape(parameter, tensor_parallel)
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        full = torch.randn(shape, generator=generator) * sigma[rule]
        parameter.copy_(full if dim < 0 else full.chunk(tensor_parallel, dim)[rank])
