"""One rank's share of a language model: the shapes and memory of Megatron's layers, without communication."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import recomputed
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun
from hitvideo.settings.training import ParallelSection


def share_of_model(settings: PretrainRun, layers: int | None = None) -> LanguageModel:
    """What one tensor-parallel rank holds, with all of the layers or this many; on the device of the caller's context."""
    parallel = settings.parallel
    llm = settings.llm if layers is None else settings.llm.model_copy(update={"layers": layers})
    kinds = Share(parallel), TrunkShare(parallel)
    return LanguageModel(llm, make_layout(settings), *kinds, parallel.activation_checkpointing)


class Share(DenseLayers):
    """One rank's share of the layers, without communication."""

    def __init__(self, parallel: ParallelSection) -> None:
        self.tensor_parallel = parallel.tensor

    def column(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs // self.tensor_parallel, bias=False)

    def row(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs // self.tensor_parallel, outputs, bias=False)

    def embedding(self, entries: int, width: int) -> nn.Module:
        return nn.Embedding(entries // self.tensor_parallel, width)


class TrunkShare(Share):
    """The trunk's layers: slots are divided over `parts` ranks, `sequence` of which share each tensor-parallel matrix."""

    def __init__(self, parallel: ParallelSection) -> None:
        super().__init__(parallel)
        self.context = parallel.context
        self.sequence = parallel.tensor if parallel.sequence else 1
        self.parts = self.context * self.sequence

    def column(self, inputs: int, outputs: int) -> nn.Module:
        return _GatheringLinear(inputs, outputs // self.tensor_parallel, self.sequence)

    def row(self, inputs: int, outputs: int) -> nn.Module:
        return _ScatteringLinear(inputs // self.tensor_parallel, outputs, self.sequence)

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        if self.parts == 1:
            return x
        mine = cast(torch.Tensor, _Scatter.apply(x, self.parts))  # type: ignore[no-untyped-call]
        return mine.transpose(0, 1).contiguous().transpose(0, 1) if self.sequence > 1 else mine

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _Gather.apply(x, self.parts)) if self.parts > 1 else x  # type: ignore[no-untyped-call]

    def slots_to_heads(self, x: torch.Tensor) -> torch.Tensor:
        if self.context == 1:
            return x
        batch, slots, heads, dims = x.shape
        got = x.view(batch, slots, self.context, heads // self.context, dims).permute(2, 0, 1, 3, 4).contiguous().clone()
        return got.permute(1, 0, 2, 3, 4).reshape(batch, self.context * slots, heads // self.context, dims)

    def heads_to_slots(self, x: torch.Tensor) -> torch.Tensor:
        if self.context == 1:
            return x
        batch, slots, heads, dims = x.shape
        got = x.view(batch, self.context, slots // self.context, heads, dims).transpose(0, 1).contiguous().clone()
        return got.permute(1, 2, 0, 3, 4).reshape(batch, slots // self.context, self.context * heads, dims)


class _Scatter(torch.autograd.Function):
    """Like parallel/slots.py, with its copies: what arrives from the ranks is joined in new memory."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: int) -> torch.Tensor:
        ctx.parts = parts
        return x.chunk(parts, 1)[0].clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return torch.cat([torch.empty_like(gradient) for _ in range(ctx.parts)], 1), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: int) -> torch.Tensor:
        ctx.parts = parts
        return torch.cat([torch.empty_like(x) for _ in range(parts)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient.chunk(ctx.parts, 1)[0].clone(), None


class _GatheringLinear(nn.Linear):
    """Megatron's column layer, slots first: it keeps only this rank's slots, and gathers the others again in the backward."""

    def __init__(self, inputs: int, outputs: int, ranks: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.ranks = ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return F.linear(x, self.weight)
        mine = x.transpose(0, 1).contiguous()
        return recomputed(True, lambda x: F.linear(torch.cat([x] * self.ranks), self.weight), mine).transpose(0, 1)


class _ScatteringLinear(_GatheringLinear):
    """Megatron's row layer, slots first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return F.linear(x, self.weight)
        return F.linear(x.transpose(0, 1).contiguous(), self.weight).chunk(self.ranks)[0].clone().transpose(0, 1)
