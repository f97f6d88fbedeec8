"""Rows in the order of their groups: raster order bit for bit where groups are single cells; a group sees only those before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hitvideo.hierarchy import Grid
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.recompute import Recompute
from hitvideo.sequence.groups import NO_TARGET, START, cells_by_group
from tests.llm.three_levels import SECTION, WINDOW, Order, layout, rows_of

ORDERS: list[Order] = [
    [None, None, (1, 2, 2)],
    [None, (1, 2, 2), (2, 2, 4)],
    [(1, 1, 1), (1, 1, 2), (2, 4, 8)],
    [(1, 1, 2), (1, 1, 4), None],
]


def model_of(groups: Order | None, recompute: Recompute = "none") -> LanguageModel:
    model = LanguageModel(SECTION, layout(groups), recompute=recompute)
    initialize(model, SECTION.width, SECTION.layers, seed=0)
    return model


def cell_groups(order: Order) -> list[list[int]]:
    """The slots of the raster row that are drawn together, in the order of drawing; counted here cell by cell."""
    plain, found = layout(), [[slot] for slot in range(WINDOW)]
    for start, grid, region in zip(plain.starts, plain.grids, order, strict=False):
        members: dict[tuple[int, ...], list[int]] = {}
        for number, cell in enumerate(np.ndindex(*grid)):
            inside = tuple(c % s for c, s in zip(cell, region or grid, strict=True))
            members.setdefault(inside, []).append(start + number)
        found += [members[key] for key in sorted(members)]
    return found


def losses_and_gradients(model: LanguageModel, rows: torch.Tensor, grouped: bool) -> dict[str, torch.Tensor]:
    losses = model(rows, 0.1, 0.7, grouped=grouped)
    losses["loss"].backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {**{name: value.detach() for name, value in losses.items()}, **found}


def test_groups_of_one_cell_are_raster_order_bit_for_bit() -> None:
    whole_grids = [tuple(grid) for grid in layout().grids]
    for groups in ([None] * 3, whole_grids):
        found = losses_and_gradients(model_of(groups), rows_of(2, seed=1), grouped=True)  # type: ignore[arg-type]
        expected = losses_and_gradients(model_of(None), rows_of(2, seed=1), grouped=False)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_model_with_groups_has_the_weights_of_one_without_and_the_same_raster_rows() -> None:
    with_groups, without = model_of(ORDERS[1]), model_of(None)
    assert with_groups.state_dict().keys() == without.state_dict().keys()
    rows = rows_of(2, seed=1)
    assert torch.equal(with_groups(rows, 0.1)["loss"], without(rows, 0.1)["loss"])


@torch.no_grad()
def test_the_mask_gives_what_causal_attention_gives() -> None:
    model, expected = model_of([None] * 3), model_of(None)
    slots = model.grouped_slots(torch.device("cpu"))
    assert slots.mask is None
    mask = torch.from_numpy(model.layout.grouped.mask)  # type: ignore[union-attr]
    model._grouped[torch.device("cpu")] = slots._replace(mask=mask)
    rows = rows_of(2, seed=1)[:, :-1]
    torch.testing.assert_close(model.grouped_hidden(rows), expected.hidden(rows), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_a_prediction_sees_all_that_is_drawn_before_its_group_and_nothing_else(order: Order) -> None:
    model = model_of(order).double()
    predicts = model.grouped_slots(torch.device("cpu")).predicts
    rows = rows_of(1, seed=2)
    before = model.grouped_hidden(rows)[0, predicts]  # state i predicts slot i + 1 of the raster row
    groups = cell_groups(order)
    assert sorted(slot for group in groups for slot in group) == list(range(len(before)))
    drawn = {slot: number for number, group in enumerate(groups) for slot in group} | {len(before): len(groups)}
    for changed in range(WINDOW, len(before)):
        others = rows.clone()
        level = int(model.layout.levels[changed])
        codes = model.layout.vocab.to_indices(level, rows[0, changed].numpy()[None])
        others[0, changed] = torch.from_numpy(model.layout.vocab.to_ids(level, codes ^ 1))[0]
        moved = (model.grouped_hidden(others)[0, predicts] != before).any(-1)
        for slot in range(1, len(before)):
            assert bool(moved[slot - 1]) == (drawn[slot] > drawn[changed]), (slot, changed)


@pytest.mark.parametrize("order", ORDERS)
def test_every_cell_is_held_once_and_predicted_once(order: Order) -> None:
    plain, found = layout(), layout(order).grouped
    assert found is not None
    assert sorted(cell for cell in found.order if cell != START) == list(range(plain.length - 1))
    assert sorted(cell for cell in found.target if cell != NO_TARGET) == list(range(1, plain.length))
    assert (np.diff(found.stage) >= 0).all(), "a cache grows at its end alone"
    passes = len({found.stage[slot] for slot in range(len(found.stage)) if found.target[slot] != NO_TARGET})
    assert passes == len(cell_groups(order))  # the first token of the text is not predicted, EOV is
    sizes = [level.shape[1] for level in found.levels]
    assert (found.order == START).sum() == sum(size for size in sizes if size > 1)
    assert layout(order).input_slots(grouped=True) == found.slots == plain.length - 1 + (found.order == START).sum()
    for number, region in enumerate(order):  # a slot and its target are in one region
        if region and sizes[number] > 1:
            start, stop = plain.starts[number : number + 2]
            inside = (found.order >= start) & (found.order < stop) & (found.target >= start) & (found.target < stop)
            held, aimed = (
                np.array(np.unravel_index(side[inside] - start, plain.grids[number])).T for side in (found.order, found.target)
            )
            assert (held // region == aimed // region).all()


def test_groups_of_a_grid() -> None:
    grid = Grid(1, 2, 4)  # cells 0 1 2 3 / 4 5 6 7
    assert cells_by_group(grid, (1, 2, 2)).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert cells_by_group(grid, (1, 1, 1)).tolist() == [list(range(8))]
    assert cells_by_group(grid, None).tolist() == cells_by_group(grid, (1, 2, 4)).tolist() == [[n] for n in range(8)]
    with pytest.raises(ValueError, match="reshape"):
        cells_by_group(grid, (1, 2, 3))


@pytest.mark.parametrize("recompute", ["selective", "block"])
def test_recomputation_changes_no_gradient_of_grouped_rows(recompute: Recompute) -> None:
    rows, modes = rows_of(2, seed=1), (recompute, "none")
    found, expected = (losses_and_gradients(model_of(ORDERS[1], mode), rows, True) for mode in modes)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)
