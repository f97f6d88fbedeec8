"""Matrices that read the same input, as one: one product, and one sum of the input's gradient over tensor-parallel ranks.

A rank's rows of the parts lie below each other, so that the outputs are split without a copy, and the flattened matrix is the
flattened parts end to end. (Megatron's linear_qkv interleaves the rows by key/value group: that layout is the same for any
number of ranks, but heads that share keys would have to be copied out of it.) Outside of the running model each part keeps a
name of its own: initial weights are drawn by it, and checkpoints, exported weights and `state_dict` hold it. So none of them
depends on what is fused, or on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hitvideo.llm.layers import Layers


class Fused(nn.Module):
    """Column layers of one input; `outputs`: the parts' names and numbers of outputs, each divided over the ranks."""

    def __init__(self, layers: Layers, inputs: int, outputs: dict[str, int]) -> None:
        super().__init__()
        self.rows = {part: size // layers.tensor_parallel for part, size in outputs.items()}
        self.column = layers.column(inputs, sum(outputs.values()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(…, inputs) → each part's (…, outputs / tensor_parallel), all in the same memory."""
        together: torch.Tensor = self.column(x)
        return torch.split(together, list(self.rows.values()), -1)


def shares(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, dict[str, tuple[int, ...]]]]:
    """Name, parameter, and its parts' names and shapes on this rank, end to end; most parameters are their only part."""
    fused = _fused(model)
    for name, parameter in model.named_parameters():
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3 empties a parameter, and keeps its shape
        parts = {part: (rows, *shape[1:]) for part, rows in fused[name].items()} if name in fused else {name: shape}
        yield name, parameter, parts


def keep_parts_names(owner: nn.Module) -> None:
    """Let `state_dict` and `load_state_dict` of a module with `Fused` children hold the parts, as if they were its layers."""
    owner.register_state_dict_post_hook(_split)  # type: ignore[no-untyped-call]
    owner.register_load_state_dict_pre_hook(_join)  # type: ignore[no-untyped-call]


def _fused(model: nn.Module) -> dict[str, dict[str, int]]:
    """Names of the fused matrices → their parts' names and rows; a part is named as a layer next to them would be."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Fused):
            owner = name[: name.rfind(".") + 1]
            found[f"{name}.column.weight"] = {f"{owner}{part}.weight": rows for part, rows in module.rows.items()}
    return found


def _split(owner: nn.Module, state: dict[str, Any], prefix: str, _metadata: object) -> None:
    for name, rows in _fused(owner).items():
        parts = torch.split(state.pop(prefix + name), list(rows.values()))
        state.update({prefix + part: tensor for part, tensor in zip(rows, parts, strict=True)})


def _join(owner: nn.Module, state: dict[str, Any], prefix: str, *_others: object) -> None:
    for name, rows in _fused(owner).items():
        found = [state.get(prefix + part) for part in rows]
        if all(tensor is not None and len(tensor) == count for tensor, count in zip(found, rows.values(), strict=True)):
            state[prefix + name] = torch.cat([state.pop(prefix + part) for part in rows])
