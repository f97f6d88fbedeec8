"""What a GPU's fused kernels keep for the backward pass, in place of what the CPU's kernels keep.

Fake tensors of a GPU would need a torch that was built for one, so the CPU's kernels run, and these replace those that differ.
They have shapes and memory, and no arithmetic. Attention needs none: both devices keep queries, keys, values, the result and
one number a row.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from hitvideo.llm.model import LanguageModel
from hitvideo.llm.rope import Rotation
from hitvideo.llm.transformer import Attention, SwiGLU
from hitvideo.ops.norm import RMSNorm


def use_fused_kernels(model: LanguageModel, compiled: bool) -> None:
    """Let a model's norms keep their input and one number a row; and, as compiled blocks do, RoPE nothing and SwiGLU's product
    its two factors."""
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.normalise = _normalise  # type: ignore[method-assign]
        if isinstance(module, Attention) and compiled:
            module.turn = _turn  # type: ignore[method-assign]
        if isinstance(module, SwiGLU) and compiled:
            module.product = _product  # type: ignore[method-assign]


def _normalise(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return cast(torch.Tensor, _Norm.apply(x, weight))  # type: ignore[no-untyped-call]


def _turn(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    return cast(torch.Tensor, _Rotated.apply(x))  # type: ignore[no-untyped-call]


def _product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, _Gated.apply(gate, up))  # type: ignore[no-untyped-call]


class _Norm(torch.autograd.Function):
    """torch's `_fused_rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class _Rotated(torch.autograd.Function):
    """RoPE: the backward turns back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return torch.empty_like(gradient)


class _Gated(torch.autograd.Function):
    """silu(gate) · up; the product itself is kept by the matrix product that takes it."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        return torch.empty_like(gate), torch.empty_like(up)
