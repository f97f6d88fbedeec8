"""Scaled dot-product attention: flash-attn if it is available, else PyTorch's SDPA, which is the reference.

Both take (B, L, heads, head_dim) and implement grouped queries the same way: query head n reads key/value head
n // (heads / kv_heads). Tests compare each with the textbook formula, forward and backward.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

from hitvideo.errors import ConfigError

Backend = Literal["flash", "sdpa"]


@cache
def installed() -> bool:
    """Whether the package is there. Searched once, not at every forward pass: a search visits the whole path."""
    return importlib.util.find_spec("flash_attn") is not None


def flash_missing(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Why flash-attn cannot run here, or None if it can."""
    if torch.device(device).type != "cuda":
        return "flash-attn needs a CUDA device"
    if not installed():
        return "flash-attn is not installed: pip install --no-build-isolation -e '.[flash]' (the build takes an hour)"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"flash-attn needs bf16 or fp16, not {dtype}"
    return None


def choose(wish: Literal["auto", "flash", "sdpa"], device: torch.device | str, dtype: torch.dtype) -> Backend:
    """The backend for the setting llm.attention. Raises ConfigError if it is `flash` and flash-attn cannot run."""
    missing = flash_missing(device, dtype)
    if wish == "flash" and missing:
        raise ConfigError(f"llm.attention is 'flash', but {missing}; use llm.attention=auto")
    return "flash" if wish != "sdpa" and missing is None else "sdpa"


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, backend: Backend) -> torch.Tensor:
    """softmax(q kᵀ / √head_dim) v.

    q (B, Lq, N, K), k and v (B, Lk, Nkv, K) → (B, Lq, N, K). If `causal`, the queries are the last Lq of Lk slots, as new
    ones behind a cache are: query i sees the keys up to Lk - Lq + i. Otherwise every query sees every key.
    """
    assert not causal or q.shape[1] <= k.shape[1], "causal attention needs a key for every query"
    if backend == "flash":
        from flash_attn import flash_attn_func

        out: torch.Tensor = flash_attn_func(q, k, v, causal=causal)  # (B, Lq, N, K); lower-right and grouped natively
        return out
    new, known = q.shape[1], k.shape[1]
    cached, groups = new < known, q.shape[2] // k.shape[2]
    if groups > 1 and not cached:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, N, L, K)
    if not cached:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
    # `is_causal` would align the triangle upper left. A repeated cache is copied for every query: on one core that took
    # 48 ms where enable_gqa takes 4 (3,000 slots, 16 heads on 4).
    seen = torch.ones(new, known, dtype=torch.bool, device=q.device).tril(known - new) if causal and new > 1 else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=groups > 1).transpose(1, 2)
