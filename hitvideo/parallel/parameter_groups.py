"""The optimizer's groups of parameters: which part of the model each belongs to, and whether its weights decay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

_NO_DECAY = re.compile(r"(^|\.)(next_)?level\.weight$")  # level embeddings, which are added like biases


def parameter_groups(model: nn.Module, weight_decay: float, parts: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return (part, optimizer group) pairs: for each part, matrices decay; norms, biases and level embeddings do not."""
    groups: list[tuple[str, dict[str, Any]]] = []
    for part in parts:
        mine = {name: p for name, p in model.named_parameters() if p.requires_grad and name.startswith(part)}
        dims = {name: len(getattr(p, "ds_shape", p.shape)) for name, p in mine.items()}  # ZeRO-3 empties p, and keeps its shape
        decayed = [p for name, p in mine.items() if dims[name] > 1 and not _NO_DECAY.search(name)]
        others = [p for name, p in mine.items() if dims[name] <= 1 or _NO_DECAY.search(name)]
        groups += [(part, {"params": decayed, "weight_decay": weight_decay}), (part, {"params": others, "weight_decay": 0.0})]
    divided = sum(len(group["params"]) for _, group in groups)
    assert divided == len([p for p in model.parameters() if p.requires_grad]), f"each parameter needs exactly one of {parts}"
    return [group for group in groups if group[1]["params"]]
