"""The trunk compiled by torch.compile: what lies between the matrix products becomes a few kernels instead of dozens.

Without tensor and context parallelism each block's forward is one graph. ZeRO-3's hooks, which gather a block's weights, are
outside of it, because the whole block is a leaf to them. With TP or CP, collectives would cut the graph into pieces; then
only the functions without weights are compiled: norm, RoPE and SwiGLU's product.

All blocks share the code that the first one compiles. It is kept on disk (TORCHINDUCTOR_CACHE_DIR), so that another start of
the same model takes seconds.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import warnings

import torch
from torch import nn

from hitvideo.llm.transformer import Attention, SwiGLU, Transformer
from hitvideo.ops.norm import RMSNorm

log = logging.getLogger(__name__)

_FUNCTIONS: tuple[tuple[type[nn.Module], str], ...] = ((RMSNorm, "normalise"), (Attention, "turn"), (SwiGLU, "product"))
"""Functions without weights, as attributes of the modules that call them."""


def compiler_missing(device: torch.device) -> str | None:
    """Why torch.compile cannot make code for this device, or None if it can."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed (it comes with the CUDA build of torch): pip install triton"
        variable, names = "CC", ("gcc", "clang", "cc")
    else:
        variable, names = "CXX", ("g++", "clang++", "c++")
    named = os.environ.get(variable)
    if any(shutil.which(name) for name in ([named] if named else names)):
        return None
    return f"found no compiler ({variable}={named}); install one of {', '.join(names)}, or set {variable} to its path"


def compile_trunk(trunk: Transformer, device: torch.device, whole: bool) -> bool:
    """Compile the blocks at their first use: each as a `whole`, or only its functions without weights.

    Where that is not possible it warns, and the trunk runs as it is, which gives the same numbers up to rounding. True if it
    is compiled. Call it before the engine wraps the model.
    """
    if missing := compiler_missing(device):
        log.warning("train.compile is on, but %s; this rank runs uncompiled, which is slower", missing)
        return False
    warnings.filterwarnings("ignore", message=".*dynamo.*lru_cache.*")
    if whole:
        for block in trunk.blocks:
            # Raster and grouped rows have two lengths: a kernel for each is faster than one for any.
            block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]
        return True
    for module in trunk.modules():
        for kind, name in _FUNCTIONS:
            if isinstance(module, kind):
                setattr(module, name, torch.compile(getattr(module, name), dynamic=False))
    return True
