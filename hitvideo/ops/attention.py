"""Scaled dot-product attention through PyTorch's SDPA, with the fastest kernel that can run here behind it.

On a CUDA device, in this order: FlashAttention-3 or -4, which PyTorch's registry puts behind SDPA; cuDNN's kernel, on Hopper
and later; the package flash-attn (FlashAttention-2), which is called by itself; PyTorch's own kernels. Published rates on an
H100 are in this order (FlashAttention-3's paper; 368 TFLOP/s for 2, 609 for cuDNN, 638 for 3).

All take (B, L, heads, head_dim) and implement grouped queries the same way: query head n reads key/value head
n // (heads / kv_heads), and keys and values are not repeated in memory. Tests compare each with the textbook formula.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from contextlib import ExitStack
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, restore_flash_attention_impl, sdpa_kernel

from hitvideo.errors import ConfigError

Wish = Literal["auto", "flash", "sdpa"]
"""The setting llm.attention."""
Backend = Literal["FA3", "FA4", "cudnn", "flash", "sdpa"]
"""FA3, FA4, cudnn: SDPA with this kernel first; flash: the package flash-attn; sdpa: SDPA with PyTorch's own order."""

_HALF = (torch.bfloat16, torch.float16)
_HOPPER = 9
_FLASH: dict[Backend, tuple[str, tuple[int, ...]]] = {  # module, and the GPU generations that it is for
    "FA3": ("flash_attn_interface", (_HOPPER,)),
    "FA4": ("flash_attn.cute.interface", (_HOPPER, 10)),
    "flash": ("flash_attn.flash_attn_interface", (8, _HOPPER, 10, 12)),
}
_FLASH_FIRST = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@cache
def installed(module: str) -> bool:
    """Whether a module is there. Searched once, not at every forward pass: a search visits the whole path."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of the package that it would be in
        return False


@cache
def generation(device: torch.device) -> int:
    """The major compute capability of a CUDA device: 8 Ampere, 9 Hopper, 10 Blackwell; 0 if there is none."""
    return torch.cuda.get_device_capability(device)[0] if torch.cuda.is_available() else 0


@cache
def usable(device: torch.device | str, dtype: torch.dtype) -> tuple[Backend, ...]:
    """The kernels that can run here, the fastest first."""
    device = torch.device(device)
    if device.type != "cuda" or dtype not in _HALF:
        return ("sdpa",)
    modules = {module for module, _ in _FLASH.values() if installed(module)}
    return ranked(generation(device), modules, torch.backends.cudnn.is_available())  # type: ignore[no-untyped-call]


def ranked(major: int, modules: Collection[str], cudnn: bool) -> tuple[Backend, ...]:
    """The kernels that run in half precision on a GPU of this generation with these modules, the fastest first."""
    able: dict[Backend, bool] = {name: major in majors and module in modules for name, (module, majors) in _FLASH.items()}
    able |= {"cudnn": cudnn and major >= _HOPPER, "sdpa": True}
    order: tuple[Backend, ...] = ("FA3", "FA4", "cudnn", "flash", "sdpa")
    return tuple(name for name in order if able[name])


def flash_missing(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Why no FlashAttention can run here, or None if one can."""
    if torch.device(device).type != "cuda":
        return "FlashAttention needs a CUDA device"
    if not any(installed(module) for module, _ in _FLASH.values()):
        return (
            "flash-attn is not installed: pip install --no-build-isolation -e '.[flash]' (the build takes an hour), or, on "
            "Hopper and Blackwell, pip install --pre flash-attn-4"
        )
    if dtype not in _HALF:
        return f"FlashAttention needs bf16 or fp16, not {dtype}"
    return None if _FLASH.keys() & set(usable(device, dtype)) else "the FlashAttention that is installed is for other GPUs"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def choose(wish: Wish, device: torch.device | str, dtype: torch.dtype) -> Backend:
    """The backend for the setting llm.attention; SDPA is told to use it. Raises ConfigError if `flash` cannot run."""
    if wish == "flash" and (missing := flash_missing(device, dtype)):
        raise ConfigError(f"llm.attention is 'flash', but {missing}; use llm.attention=auto")
    able = usable(device, dtype)
    backend: Backend = next(name for name in able if wish == "auto" or name in (_FLASH if wish == "flash" else ["sdpa"]))
    if torch.device(device).type == "cuda":
        _Order.set(backend)
    return backend


class _Order:
    """What SDPA prefers in this process, beyond PyTorch's own order."""

    now: Backend = "sdpa"
    held = ExitStack()

    @classmethod
    def set(cls, backend: Backend) -> None:
        """Put a kernel behind SDPA, and first; only if it is not there already."""
        if backend == cls.now:
            return
        cls.held.close()
        if backend in ("FA3", "FA4"):
            activate_flash_attention_impl(backend)
            cls.held.callback(restore_flash_attention_impl)
        if backend in ("FA3", "FA4", "cudnn"):
            order = _CUDNN_FIRST if backend == "cudnn" else _FLASH_FIRST
            cls.held.enter_context(sdpa_kernel(order, set_priority=True))
        cls.now = backend


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, backend: Backend, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(q kᵀ / √head_dim) v.

    q (B, Lq, N, K), k and v (B, Lk, Nkv, K) → (B, Lq, N, K). If `causal`, the queries are the last Lq of Lk slots, as new
    ones behind a cache are: query i sees the keys up to Lk - Lq + i. Otherwise every query sees every key. `mask` (Lq, Lk) says
    instead which keys (columns) a query (row) sees; SDPA takes it with a kernel of PyTorch's own, whatever `backend` is.
    """
    assert not causal or q.shape[1] <= k.shape[1], "causal attention needs a key for every query"
    if backend == "flash" and mask is None:
        from flash_attn import flash_attn_func

        out: torch.Tensor = flash_attn_func(q, k, v, causal=causal)  # (B, Lq, N, K); lower-right and grouped natively
        return out
    new, known, grouped = q.shape[1], k.shape[1], q.shape[2] > k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, N, L, K)
    if mask is not None:
        if grouped and q.is_cuda:  # the kernels that take a mask take no grouped keys, and the fallback keeps all scores
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
            grouped = False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)
    if new == known:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped).transpose(1, 2)
    # `is_causal` would align the triangle upper left.
    seen = torch.ones(new, known, dtype=torch.bool, device=q.device).tril(known - new) if causal and new > 1 else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped).transpose(1, 2)
