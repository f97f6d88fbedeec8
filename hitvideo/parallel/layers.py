"""Megatron's tensor-parallel layers behind the bundle that `llm/layers.py` describes.

    column  Y = X A,  A = [A₁ | A₂]     each rank holds columns, outputs stay divided
    row     Y = X A,  A = [A₁ ; A₂]     each rank holds rows, outputs are summed over the ranks

Weights are left uninitialised here: `llm.init.initialize` fills them by name, the same for every layout.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.model_parallel_config import ModelParallelConfig
from torch import nn


def _leave(weight: torch.Tensor) -> torch.Tensor:
    """An init method that draws nothing; Megatron still marks the weight as tensor parallel."""
    return weight


class _Column(tensor_parallel.ColumnParallelLinear):  # type: ignore[misc]
    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = super().forward(*args, **kwargs)[0]
        return out


class _Row(tensor_parallel.RowParallelLinear):  # type: ignore[misc]
    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = super().forward(*args, **kwargs)[0]
        return out


class MegatronLayers:
    """`Layers` for a tensor-parallel group of two or more ranks."""

    def __init__(self, tensor: int, dtype: torch.dtype) -> None:
        self.tensor_parallel = tensor
        # CPU initialisation makes Megatron build whole weights and slice them, the only path that is layout-free.
        self._config = ModelParallelConfig(
            tensor_model_parallel_size=tensor, use_cpu_initialization=True, params_dtype=dtype, perform_initialization=True
        )

    def column(self, inputs: int, outputs: int) -> nn.Module:
        module: nn.Module = _Column(
            inputs, outputs, config=self._config, init_method=_leave, bias=False, gather_output=False
        )
        return module

    def row(self, inputs: int, outputs: int) -> nn.Module:
        module: nn.Module = _Row(
            inputs,
            outputs,
            config=self._config,
            init_method=_leave,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
        )
        return module

    def embedding(self, entries: int, width: int) -> nn.Module:
        module: nn.Module = tensor_parallel.VocabParallelEmbedding(
            entries, width, init_method=_leave, config=self._config
        )
        return module

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # A copy, because Megatron's loss works in place on what it is given.
        nats: torch.Tensor = tensor_parallel.vocab_parallel_cross_entropy(logits.float().clone(), targets)
        return nats

    def shared(self, weight: torch.Tensor) -> torch.Tensor:
        """Identity forward; backward sums over the ranks. Under ZeRO-3 there is no `.grad` that could be reduced later."""
        out: torch.Tensor = tensor_parallel.copy_to_tensor_model_parallel_region(weight)
        return out
