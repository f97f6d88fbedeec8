"""Initial weights as a function of the parameter's name, the seed and its full shape: the same for every layout.

The table below is executed, first match wins. σ is 1/√width, times 1/√(2·layers) for matrices that write into the
residual stream, so that its variance does not grow with depth (GPT-2).
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
    """Shape of the undivided parameter, and the dimension it is divided along (-1: it is not).

    `local` is this rank's share where the parameter itself no longer tells (ZeRO-3 empties it).
    """
    dim = getattr(parameter, "partition_dim", -1) if getattr(parameter, "tensor_model_parallel", False) else -1
    shape = list(local or parameter.shape)
    if dim >= 0:
        shape[dim] *= tensor_parallel
    return tuple(shape), dim


@torch.no_grad()
def initialize(model: nn.Module, width: int, layers: int, seed: int, rank: int = 0, tensor_parallel: int = 1) -> None:
    """Fill every parameter of the model, or this tensor-parallel rank's share of it."""
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
