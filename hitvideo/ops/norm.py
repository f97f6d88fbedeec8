"""RMSNorm: PyTorch's own, which has a fused kernel on GPUs and which torch.compile fuses further; NVIDIA apex's if a run asks.

x / √(mean(x²) + eps) · weight over the last dimension, in fp32 (Zhang & Sennrich 2019, as in Llama).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from hitvideo.errors import ConfigError


@cache
def installed() -> bool:
    """Whether the package is there. Searched once, not at every forward pass: a search visits the whole path."""
    return importlib.util.find_spec("fused_layer_norm_cuda") is not None


def apex_missing(device: torch.device | str) -> str | None:
    """Why apex's fused norm cannot run here, or None if it can."""
    if torch.device(device).type != "cuda":
        return "apex needs a CUDA device"
    if not installed():
        return "NVIDIA apex with CUDA extensions is not installed (see README; `apex` on PyPI is a different project)"
    return None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """(…, D) and weight (D,) → (…, D) in x's dtype. The reference is PyTorch's own, which computes in fp32."""
    return F.rms_norm(x, weight.shape, weight, eps)


class RMSNorm(nn.Module):
    """RMSNorm. `share` wraps the weight if tensor-parallel ranks see different heads or slots, so that its gradients add up."""

    def __init__(self, width: int, eps: float, share: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.share = share

    @staticmethod
    def normalise(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """`rms_norm`, as what `use_apex` and a compiled run replace."""
        return rms_norm(x, weight, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (…, D) → (…, D)
        weight = self.share(self.weight) if self.share else self.weight
        return self.normalise(x, weight, self.eps)


def apex_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`rms_norm` by apex's kernel."""
    from apex.normalization.fused_layer_norm import fused_rms_norm_affine

    out: torch.Tensor = fused_rms_norm_affine(x, weight, weight.shape, eps)
    return out


def use_apex(model: nn.Module, device: torch.device) -> None:
    """Let all norms of a model run by apex's kernel. Raises ConfigError if it cannot run on this device."""
    if missing := apex_missing(device):
        raise ConfigError(f"train.norm is 'apex', but {missing}; use train.norm=torch")
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.normalise = apex_norm  # type: ignore[method-assign]
