"""Which parameters decay: what the setting says, matrices only."""

from __future__ import annotations

from torch import nn

from hitvideo.parallel.parameter_groups import parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Embedding(5, 4)
        self.next_level = nn.Embedding(5, 4)
        self.embedding = nn.Embedding(9, 4)
        self.levels = nn.ModuleList([nn.Linear(4, 4)])
        self.norm = nn.LayerNorm(4)


def test_level_embeddings_norms_and_biases_do_not_decay() -> None:
    model = Model()
    by_decay = {group["weight_decay"]: {id(p) for p in group["params"]} for _, group in parameter_groups(model, 0.1, [""])}
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[each] for each in by_decay[0.1]} == {"embedding.weight", "levels.0.weight"}
    assert {names[each] for each in by_decay[0.0]} == {
        "level.weight", "next_level.weight", "levels.0.bias", "norm.weight", "norm.bias",
    }  # fmt: skip
