"""Fused matrices compute what their parts would, and are known by the parts' names wherever weights are handed over."""

from __future__ import annotations

import pytest
import torch

from hitvideo.llm.fused import Fused, keep_parts_names, shares
from hitvideo.llm.layers import DenseLayers

PARTS = {"q": 6, "k": 2, "v": 4}


class Owner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.many = Fused(DenseLayers(), 5, PARTS)
        self.out = torch.nn.Linear(4, 5)
        keep_parts_names(self)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Owner(), Owner()])


def test_the_outputs_and_gradients_are_those_of_separate_layers() -> None:
    fused, x = Fused(DenseLayers(), 5, PARTS), torch.randn(2, 3, 5, requires_grad=True)
    alone = torch.nn.ModuleDict({part: torch.nn.Linear(5, size, bias=False) for part, size in PARTS.items()})
    with torch.no_grad():
        fused.column.weight.copy_(torch.cat([layer.weight for layer in alone.values()]))
    weight, copied = {part: torch.randn(2, 3, size) for part, size in PARTS.items()}, x.detach().clone().requires_grad_()
    for found, (part, layer) in zip(fused(x), alone.items(), strict=True):
        torch.testing.assert_close(found, layer(copied))
        (layer(copied) * weight[part]).sum().backward()
    sum((found * weight[part]).sum() for found, part in zip(fused(x), PARTS, strict=True)).backward()
    torch.testing.assert_close(x.grad, copied.grad)
    torch.testing.assert_close(fused.column.weight.grad, torch.cat([layer.weight.grad for layer in alone.values()]))


def test_splitting_copies_nothing() -> None:
    outputs = Fused(DenseLayers(), 5, PARTS)(torch.randn(2, 3, 5))
    assert len({part.untyped_storage().data_ptr() for part in outputs}) == 1


def test_a_state_dict_holds_the_parts() -> None:
    model, other = Model(), Model()
    state = model.state_dict()
    names = [f"{part}.weight" for part in PARTS] + ["out.weight", "out.bias"]
    assert set(state) == {f"blocks.{number}.{name}" for number in (0, 1) for name in names}
    assert torch.equal(state["blocks.1.k.weight"], model.blocks[1].many.column.weight[6:8])
    other.load_state_dict(state)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    model.blocks[0].load_state_dict({name.removeprefix("blocks.1."): each for name, each in state.items() if ".1." in name})
    assert torch.equal(*(block.many.column.weight for block in model.blocks)), "of a part of the model, too"


@pytest.mark.parametrize("change", ["absent", "longer", "wider"])
def test_a_part_that_does_not_fit_is_refused(change: str) -> None:
    model = Model()
    state = model.state_dict()
    part = state.pop("blocks.0.v.weight")
    if change == "longer":  # as many rows as before, with one of k's among v's
        state["blocks.0.k.weight"], state["blocks.0.v.weight"] = torch.zeros(1, 5), torch.cat([part, part[:1]])
    elif change == "wider":
        state["blocks.0.v.weight"] = torch.zeros(4, 6)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.|Sizes of tensors"):
        model.load_state_dict(state)


def test_shares_cover_each_parameter_end_to_end() -> None:
    for name, parameter, parts in shares(Model()):
        assert sum(torch.Size(shape).numel() for shape in parts.values()) == parameter.numel(), name
    found = {name: parts for name, _, parts in shares(Model())}
    assert found["blocks.1.many.column.weight"] == {f"blocks.1.{part}.weight": (size, 5) for part, size in PARTS.items()}
    assert found["blocks.0.out.bias"] == {"blocks.0.out.bias": (5,)}
