"""Adam's state as a resume makes it, before any step was taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import adam_states


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_adams_state_is_on_its_weights_device(device: str) -> None:
    """Fused Adam takes no step if the count of steps is on another device than the weights; `meta` is another device, too."""
    master = torch.nn.Parameter(torch.zeros(5, device=device))
    engine: Any = SimpleNamespace(masters=[master], adam=torch.optim.AdamW([master]))
    (state,) = adam_states(cast(Engine, engine))
    assert {tensor.device.type for tensor in state.values()} == {device}


def test_it_is_the_state_that_adam_itself_makes() -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    engine: Any = SimpleNamespace(masters=[ours], adam=torch.optim.AdamW([ours], fused=True))
    adam_states(cast(Engine, engine))
    adam = torch.optim.AdamW([theirs], fused=True)
    for parameter, optimizer in ((ours, engine.adam), (theirs, adam)):
        parameter.grad = torch.full((5,), 0.1)
        optimizer.step()
    assert torch.equal(ours, theirs)
    for name, value in adam.state[theirs].items():
        assert torch.equal(engine.adam.state[ours][name], value)
