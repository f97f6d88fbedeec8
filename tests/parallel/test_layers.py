"""Megatron's layers on two ranks give the losses and gradients of the dense layers."""

from __future__ import annotations

import torch
from torch import nn

from hitvideo.llm.init import initialize
from hitvideo.llm.layers import DenseLayers, Layers
from hitvideo.ops.norm import RMSNorm
from hitvideo.parallel.topology import start
from tests.worlds import run_ranks

WIDTH, HIDDEN, HEAD, ENTRIES = 8, 12, 3, 10


class Net(nn.Module):
    """Embedding, column, row and divided logits, connected as in a transformer."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.embedding = layers.embedding(ENTRIES, WIDTH)
        self.up = layers.column(WIDTH, HIDDEN)
        self.down = layers.row(HIDDEN, WIDTH)
        self.head = layers.column(WIDTH, ENTRIES)
        self.norm = RMSNorm(HEAD, 1e-5, layers.over_heads)  # like QK-norm: all ranks hold it, each applies it to its own heads
        self.layers = layers

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.up(self.embedding(ids)).unflatten(-1, (-1, HEAD))).flatten(-2)
        return self.layers.cross_entropy(self.head(self.down(hidden)), ids.flip(1))


def gradients(layers: Layers, rank: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, int]]:
    net = Net(layers)
    initialize(net, WIDTH, 1, seed=3, rank=rank, tensor_parallel=layers.tensor_parallel)
    losses = net(torch.arange(ENTRIES).view(2, 5))
    losses.sum().backward()
    divided = [(name, p) for name, p in net.named_parameters() if getattr(p, "tensor_model_parallel", False)]
    dims = {name: p.partition_dim for name, p in divided}
    return losses.detach(), {name: p.grad for name, p in net.named_parameters()}, dims


def divided() -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, int]]:
    from hitvideo.parallel.layers import MegatronLayers

    with start(tensor=2) as topology:
        return gradients(MegatronLayers(2, torch.float32), topology.tensor_rank)


def test_two_ranks_are_one() -> None:
    losses, whole, _ = gradients(DenseLayers(), 0)
    first, second = run_ranks(divided, 2)
    assert set(first[2]) == {"embedding.weight", "up.weight", "down.weight", "head.weight"}
    for rank_losses, _, _ in (first, second):
        torch.testing.assert_close(rank_losses, losses, rtol=1e-6, atol=1e-6)
    for name, expected in whole.items():
        dim = first[2].get(name, -1)
        found = first[1][name] if dim < 0 else torch.cat([first[1][name], second[1][name]], dim)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first[1]["norm.weight"], second[1]["norm.weight"])
