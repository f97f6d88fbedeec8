"""What the backward pass of a transformer's layer recomputes instead of keeping.

    none       nothing
    selective  all but the results of matrix products and of attention, which take nearly all the time to compute; what lies
               between them (norms, RoPE, SwiGLU's product) takes more memory than time (Korthikanti et al. 2022)
    block      everything: only a layer's input is kept

Tensor-parallel ranks sum a product's parts in place. The selective mode therefore keeps the sum, not the part, and does not
send it again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "selective", "block"]
"""What the backward pass recomputes instead of keeping; the module's docstring has the three."""

KEPT = {
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "flash_attn::_flash_attn_forward",
    "c10d::allreduce_",
}
"""Operators whose results the selective mode keeps."""


def recomputed(mode: Recompute, function: Callable[..., torch.Tensor], *inputs: Any) -> torch.Tensor:
    """function(*inputs), of which the backward pass keeps what `mode` says; without gradients, a plain call."""
    if mode == "none" or not torch.is_grad_enabled():
        return function(*inputs)
    more: dict[str, Any] = {}
    if mode == "selective":
        more["context_fn"] = partial(create_selective_checkpoint_contexts, _policy, True)
    return cast(torch.Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **more))


def _policy(_context: Any, operator: Any, *_inputs: Any, **_options: Any) -> CheckpointPolicy:
    kept = isinstance(operator, torch._ops.OpOverload) and operator._schema.name in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
