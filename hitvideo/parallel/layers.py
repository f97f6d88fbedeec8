"""Megatron's tensor-parallel layers, as the `Layers` bundle of hitvideo/llm/layers.py.

    column  Y = X A,  A = [A₁ | A₂]     each rank holds columns, outputs stay divided
    row     Y = X A,  A = [A₁ ; A₂]     each rank holds rows, outputs are summed over the ranks

The trunk's bundle can also divide a row's slots, in two ways that compose:

    sequence    over the tensor-parallel ranks, in norms and the residual stream, which would otherwise be copies
                (Korthikanti et al. 2022). A column layer gathers the slots; a row layer scatters them as it sums.
    context     over a separate axis of ranks, for long video. Attention trades slots for heads and back by all-to-all
                (Ulysses, Jacobs et al. 2023); everything else in the trunk works slot by slot.

Weights are not initialised here: `llm.init.initialize` fills them by name, the same for every layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.model_parallel_config import ModelParallelConfig
from torch import nn

from hitvideo.parallel import slots


def _leave(weight: torch.Tensor) -> torch.Tensor:
    """An init method that does nothing; Megatron still marks the weight as tensor parallel."""
    return weight


def _slots_first(forward: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    """Call `forward` on (L, B, …), because Megatron divides the first dimension; takes and returns (B, L, …)."""
    return cast(torch.Tensor, forward(x.transpose(0, 1).contiguous())[0].transpose(0, 1))


class _Column(tensor_parallel.ColumnParallelLinear):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _slots_first(super().forward, x) if self.sequence_parallel else cast(torch.Tensor, super().forward(x)[0])


class _Row(tensor_parallel.RowParallelLinear):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _slots_first(super().forward, x) if self.sequence_parallel else cast(torch.Tensor, super().forward(x)[0])


class MegatronLayers:
    """`Layers` for a tensor-parallel group. `sequence` and `context` are for the trunk's bundle: they divide its slots."""

    def __init__(self, tensor: int, dtype: torch.dtype, sequence: bool = False, context: bool = False) -> None:
        self.tensor_parallel = tensor
        self._sequence = sequence
        self._context = context
        # With CPU initialisation Megatron builds whole weights and slices them; no other path is the same for every layout.
        self._config = ModelParallelConfig(
            tensor_model_parallel_size=tensor,
            sequence_parallel=sequence,
            use_cpu_initialization=True,
            params_dtype=dtype,
            perform_initialization=True,
        )

    def column(self, inputs: int, outputs: int) -> nn.Module:
        module: nn.Module = _Column(inputs, outputs, config=self._config, init_method=_leave, bias=False, gather_output=False)
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
        module: nn.Module = tensor_parallel.VocabParallelEmbedding(entries, width, init_method=_leave, config=self._config)
        return module

    def cross_entropy(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # A copy, because Megatron's loss overwrites its input.
        nats: torch.Tensor = tensor_parallel.vocab_parallel_cross_entropy(logits.float().clone(), targets)
        return nats

    def over_heads(self, weight: torch.Tensor) -> torch.Tensor:
        """Identity forward; backward sums over the ranks, since under ZeRO-3 there is no `.grad` to reduce later."""
        out: torch.Tensor = tensor_parallel.copy_to_tensor_model_parallel_region(weight)
        return out

    def over_slots(self, weight: torch.Tensor) -> torch.Tensor:
        return self.over_heads(weight) if self._sequence else weight

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        if self._context:
            x = slots.scatter(x, parallel_state.get_context_parallel_group(), averaged=True)
        if not self._sequence:
            return x
        mine = slots.scatter(x, parallel_state.get_tensor_model_parallel_group())
        return mine.transpose(0, 1).contiguous().transpose(0, 1)  # the layers' memory layout: no copy in each

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        if self._sequence:
            x = slots.gather(x, parallel_state.get_tensor_model_parallel_group())
        return slots.gather(x, parallel_state.get_context_parallel_group(), averaged=True) if self._context else x

    def slots_to_heads(self, x: torch.Tensor) -> torch.Tensor:
        return slots.to_heads(x, parallel_state.get_context_parallel_group()) if self._context else x

    def heads_to_slots(self, x: torch.Tensor) -> torch.Tensor:
        return slots.to_slots(x, parallel_state.get_context_parallel_group()) if self._context else x
