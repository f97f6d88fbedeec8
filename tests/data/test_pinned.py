"""Micro-batches are filled in place: what training gets is the memory that was allocated, pinned if there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.data.numbers import GLOBAL, Numbers, global_batch, make


def allocations(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What `torch.empty` gives from now on."""
    given: list[torch.Tensor] = []
    empty = torch.empty

    def noted(*shape: Any, **options: Any) -> torch.Tensor:
        given.append(empty(*shape, **options))
        return given[-1]

    monkeypatch.setattr(torch, "empty", noted)
    return given


@pytest.mark.parametrize("threads", [0, 3])
def test_a_micro_batch_is_the_memory_that_its_rows_were_put_into(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Numbers(100, damaged=range(0, 100, 7))
    expected = [global_batch([make(source, threads=0)], step) for step in range(3)]
    given = allocations(monkeypatch)
    with make(source, threads=threads) as loader:
        for step, rows in enumerate(expected):
            batches = loader(step)
            assert len(batches) == GLOBAL // 4
            assert {batch.data_ptr() for batch in batches} <= {memory.data_ptr() for memory in given}
            assert torch.cat(batches).equal(rows)


def test_samples_of_two_shapes_are_not_stretched() -> None:
    class Uneven(Numbers):
        def tensor(self, index: int, draw: int) -> torch.Tensor:
            return torch.zeros(1 if index % 2 else 2)

    with make(Uneven(100), threads=0) as loader, pytest.raises(ValueError, match="samples of one micro-batch"):
        loader(0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("threads", [0, 3])
def test_they_are_pinned(threads: int) -> None:
    with make(Numbers(100), threads=threads) as loader:
        assert all(batch.is_pinned() for batch in loader(0))
