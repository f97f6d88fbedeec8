"""What the backward pass recomputes: the same numbers bit for bit, less memory, and no product twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.recompute import KEPT, Recompute
from hitvideo.llm.rope import rotation
from hitvideo.llm.transformer import Transformer
from hitvideo.settings.language_model import LLMSection

WIDTH, HEADS, KV_HEADS, HIDDEN, LENGTH, BATCH = 32, 4, 2, 72, 23, 2
HEAD = WIDTH // HEADS
MODES: list[Recompute] = ["none", "selective", "block"]


def trunk(mode: Recompute, layers: int = 2) -> Transformer:
    llm = LLMSection(
        layers=layers, width=WIDTH, heads=HEADS, kv_heads=KV_HEADS, hidden=HIDDEN, rope_axes=(4, 2, 2), qk_norm=True
    )
    torch.manual_seed(0)
    return Transformer(llm, DenseLayers(), mode)


def forward(model: Transformer) -> torch.Tensor:
    turn = rotation(torch.arange(LENGTH)[:, None].float(), (HEAD,), 10000.0)
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    out: torch.Tensor = model(x.requires_grad_(), turn, turn)
    return out


@pytest.mark.parametrize("mode", ["selective", "block"])
def test_numbers_are_the_same_bit_for_bit(mode: Recompute) -> None:
    found = []
    for kind in ("none", mode):
        model = trunk(kind)
        loss = forward(model).square().sum()
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Counting(TorchDispatchMode):
    """How often each operator has run; the modes of a checkpoint, which are entered later, hide what they have kept."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_selective_computes_no_product_and_no_attention_again() -> None:
    """A product takes one call forward and two backward; block computes all but a layer's last again."""
    products, attention, norms = [], [], []
    for mode in MODES:
        model = trunk(mode)
        with Counting() as counting:
            forward(model).sum().backward()
        products.append(counting.calls["aten::mm"])
        attention.append(sum(counting.calls[name] for name in KEPT if "attention" in name))
        norms.append(counting.calls["aten::rsqrt"])
    layers = 2
    assert products == [layers * 4 * 3, layers * 4 * 3, layers * (4 * 3 + 3)]
    assert attention == [layers, layers, 2 * layers]
    assert norms[0] < norms[1] == norms[2]


def kept(mode: Recompute, layers: int) -> int:
    """Bytes that a forward leaves for the backward."""
    with FakeTensorMode():
        model, tracker = trunk(mode, layers), MemTracker()
        tracker.track_external(model)
        before = total(tracker)
        with tracker:
            out = forward(model)
            after = total(tracker)
        return after - before - out.nbytes


def total(tracker: MemTracker) -> int:
    return int(sum(device["Total"] for device in tracker.get_tracker_snapshot("current").values()))


def test_kept_memory() -> None:
    """Of a further layer, in entries of 4 bytes for each slot.

    block: the layer's input. selective: besides, the results of its four products (q, k and v; out; gate and up; down) and of
    attention, which also has a number for each head and slot.
    """
    none, selective, block = (kept(mode, 3) - kept(mode, 2) for mode in MODES)
    products = (HEADS + 2 * KV_HEADS) * HEAD + WIDTH + 2 * HIDDEN + WIDTH
    assert block == 4 * BATCH * LENGTH * WIDTH
    assert selective == block + 4 * BATCH * LENGTH * (products + WIDTH + HEADS)
    assert block < selective < 0.7 * none
