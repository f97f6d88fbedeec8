"""Cells drawn together: raster order is the library's model bit for bit; no prediction sees its own group or a later one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.grouped import ORDERS as PLANS
from experiments.grouped import passes, tables
from experiments.grouped_information import blind_nats, known_nats
from experiments.grouped_layout import NO_TARGET, RASTER, START, Groups, grouped_layout, parse_groups
from experiments.grouped_model import GroupedModel
from experiments.lab import Lab
from hitvideo.hierarchy import Extent, Grid, Hierarchy, Level
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection

HIERARCHY = Hierarchy(
    levels=(
        Level(down=(4, 8, 8), num_bits=3),
        Level(down=(4, 4, 4), num_bits=4, sub_bits=(2, 2)),
        Level(down=(2, 2, 2), num_bits=4),
    )
)  # grids of the clip below: 1×1×2, 1×2×4, 2×4×8
EXTENT, WINDOW, TEXT_SIZE = Extent(4, 8, 16), 5, 300
SECTION = LLMSection(layers=3, width=24, heads=4, kv_heads=2, hidden=40, rope_axes=(2, 2, 2), qk_norm=True, ancestors=True)
WHOLE = Groups("block", (1, 1, 2))
ORDERS = [
    [RASTER, RASTER, Groups("block", (1, 2, 2))],
    [RASTER, Groups("spread", (1, 2, 2)), Groups("spread", (2, 2, 4))],
    [WHOLE, Groups("block", (1, 2, 4)), Groups("block", (2, 4, 8))],
    [RASTER, Groups("block", (1, 1, 4)), RASTER],
]


def layout() -> SequenceLayout:
    return SequenceLayout(Vocab(TEXT_SIZE, HIERARCHY), HIERARCHY, EXTENT, WINDOW)


def model_of(kind: type[LanguageModel]) -> LanguageModel:
    model = kind(SECTION, layout())
    initialize(model, SECTION.width, SECTION.layers, seed=0)
    return model


def rows_of(count: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    grids = layout().grids
    codes = [
        [rng.integers(0, 1 << level.num_bits, grid) for level, grid in zip(HIERARCHY.levels, grids, strict=True)]
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack([layout().join([7, 9], one) for one in codes]))


def cell_groups(order: Sequence[Groups]) -> list[list[int]]:
    """The slots of the raster row that are drawn together, in the order of drawing; counted here cell by cell."""
    plain, found = layout(), [[slot] for slot in range(WINDOW)]
    for start, grid, groups in zip(plain.starts, plain.grids, order, strict=False):
        members: dict[tuple[int, ...], list[int]] = {}
        for number, cell in enumerate(np.ndindex(*grid)):
            block = tuple(c // s for c, s in zip(cell, groups.shape, strict=True))
            inside = tuple(c % s for c, s in zip(cell, groups.shape, strict=True))
            members.setdefault(block if groups.kind == "block" else inside, []).append(start + number)
        found += [members[key] for key in sorted(members)]
    return found


@pytest.mark.parametrize("raster", [RASTER, None], ids=["blocks of one", "one block"])
def test_raster_order_is_the_librarys_model_bit_for_bit(raster: Groups | None) -> None:
    ours, theirs = model_of(GroupedModel), model_of(LanguageModel)
    assert isinstance(ours, GroupedModel)
    ours.use(grouped_layout(layout(), [raster or Groups("spread", (grid.t, grid.h, grid.w)) for grid in layout().grids]))
    rows = rows_of(2, seed=1)
    found, expected = ours(rows, 0.1, 0.7), theirs(rows, 0.1, 0.7)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    for losses in (found, expected):
        losses["loss"].backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(gradients[name].grad, parameter.grad), name  # type: ignore[arg-type]


@torch.no_grad()
def test_the_mask_gives_what_causal_attention_gives() -> None:
    ours, theirs = model_of(GroupedModel), model_of(LanguageModel)
    assert isinstance(ours, GroupedModel)
    raster = grouped_layout(layout(), [RASTER] * 3)
    ours.use(raster)
    for block in ours.trunk.blocks:
        block.attention.mask = torch.from_numpy(raster.mask)  # type: ignore[union-attr, assignment]
    rows = rows_of(2, seed=1)
    torch.testing.assert_close(ours.hidden(rows[:, :-1]), theirs.hidden(rows[:, :-1]), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_a_prediction_sees_all_that_is_drawn_before_its_group_and_nothing_else(order: list[Groups]) -> None:
    model = model_of(GroupedModel).double()
    assert isinstance(model, GroupedModel)
    model.use(grouped_layout(layout(), order))
    rows = rows_of(1, seed=2)
    before = model.hidden(rows[:, :-1])[0]  # state i predicts slot i + 1 of the raster row
    groups = cell_groups(order)
    assert sorted(slot for group in groups for slot in group) == list(range(len(before)))
    drawn = {slot: number for number, group in enumerate(groups) for slot in group} | {len(before): len(groups)}
    for changed in range(WINDOW, len(before)):
        others = rows.clone()
        level = int(model.layout.levels[changed])
        codes = model.layout.vocab.to_indices(level, rows[0, changed].numpy()[None])
        others[0, changed] = torch.from_numpy(model.layout.vocab.to_ids(level, codes ^ 1))[0]
        moved = (model.hidden(others[:, :-1])[0] != before).any(-1)
        for slot in range(1, len(before)):
            assert bool(moved[slot - 1]) == (drawn[slot] > drawn[changed]), (slot, changed)


@pytest.mark.parametrize("order", ORDERS)
def test_every_cell_is_fed_once_and_predicted_once(order: list[Groups]) -> None:
    found, plain = grouped_layout(layout(), order), layout()
    assert sorted(cell for cell in found.order if cell != START) == list(range(plain.length - 1))
    assert sorted(cell for cell in found.target if cell != NO_TARGET) == list(range(1, plain.length))
    assert (np.diff(found.stage) >= 0).all(), "a cache grows at its end alone"
    passes = len({found.stage[slot] for slot in range(len(found.stage)) if found.target[slot] != NO_TARGET})
    assert passes == len(cell_groups(order))  # the first token of the text is not predicted, EOV is
    sizes = [len(groups.cells(grid).T) for groups, grid in zip(order, plain.grids, strict=True)]
    assert (found.order == START).sum() == sum(size for size in sizes if size > 1)
    for number, size in enumerate(sizes):  # a slot and its target are in one place of their groups
        if order[number].kind == "spread" and size > 1:
            start, stop = plain.starts[number : number + 2]
            t, h, w = order[number].shape
            inside = (found.order >= start) & (found.order < stop) & (found.target >= start) & (found.target < stop)
            cells = [
                np.array(np.unravel_index(side[inside] - start, plain.grids[number])).T for side in (found.order, found.target)
            ]
            assert (cells[0] // (t, h, w) == cells[1] // (t, h, w)).all()


def test_groups_of_a_grid() -> None:
    grid = Grid(1, 2, 4)  # cells 0 1 2 3 / 4 5 6 7
    assert Groups("block", (1, 2, 2)).cells(grid).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert Groups("spread", (1, 2, 2)).cells(grid).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert RASTER.cells(grid).T.tolist() == [list(range(8))]


def test_groups_as_the_command_line_writes_them() -> None:
    assert parse_groups("raster") == RASTER
    assert parse_groups("spread:2,4,4") == Groups("spread", (2, 4, 4))
    for wrong in ("lines:1,2,2", "block:1,2", "block"):
        with pytest.raises(ValueError, match=r"block|unpack|int"):
            parse_groups(wrong)


def test_passes_of_the_orders_that_are_compared() -> None:
    assert {name: sum(passes(name)) for name in PLANS} == {
        "raster": 4 + 16 + 32 + 128,
        "spread-4": 4 + 4 + 8 + 32,
        "block-4": 4 + 4 + 8 + 32,
        "spread-8": 4 + 2 + 4 + 16,
        "block-8": 4 + 2 + 4 + 16,
        "spread-16": 1 + 2 + 2 + 8,
        "block-16": 1 + 1 + 2 + 8,
    }


@torch.no_grad()
def test_a_blind_cell_has_its_neighbours_averaged_out() -> None:
    """Against the sum over all 2^4 codes of the cell before it, in two sub-codes, and the plain loss of the first cell."""
    model, row = model_of(LanguageModel), rows_of(1, seed=3)[0]
    for parameter in model.parameters():
        parameter.data *= 1.5  # the cells say more of each other
    first = model.layout.starts[1] + 2
    every = row.expand(16, -1, -1).clone()
    every[:, first] = torch.from_numpy(model.layout.vocab.to_ids(1, np.arange(16)))
    weight = (-known_nats(model, every)[:, first]).exp()
    assert float(weight.sum()) == pytest.approx(1, abs=1e-5)
    exact = -(weight * (-known_nats(model, every)[:, first + 1]).exp()).sum().log()
    found = blind_nats(model, row, first, first + 2, draws=4096, seed=0)
    known = known_nats(model, row[None])[0]
    assert float(found[0]) == pytest.approx(float(known[first]), abs=1e-4)
    assert float(found[1]) == pytest.approx(float(exact), abs=0.02)
    assert abs(float(known[first + 1] - exact)) > 0.05, "the cell before says nothing: the test would not see a mistake"


def test_the_table_shows_prices_over_raster_order(tmp_path: Path) -> None:
    lab = Lab(tmp_path, seeds=2)
    assert tables(lab) == {}
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/information.json").write_text(
        json.dumps({"lost": [{"2": [0.1, 0.3]}, {"2": [0.5, 0.5], "4": [0.9, 1.1]}]})
    )
    for seed, price in enumerate((0.25, 0.35)):
        orders = [[1.0, 2.0, 3.0 + seed, 4.0]] + [[1.0, 2.0, 3.0 + seed + price, 4.0 + price]] * (len(PLANS) - 1)
        (tmp_path / f"figures/orders-{seed}.json").write_text(json.dumps({"orders": orders}))
    found = tables(lab)["grouped"].splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in found if line.startswith("| ")}
    assert [cells[f"level {level}"][0].split()[0] for level in (0, 1)] == ["0.20", "0.50"]
    assert cells["level 1"][1].split()[0] == "1.00"
    assert cells["spread-8"] == ["+0.000", "+0.000", "+0.300", "+0.300", "26 (4 + 2 + 4 + 16)"]
    assert cells["raster"][:2] == ["1.000 ± 0.000", "2.000 ± 0.000"]
    assert len([line for line in found if line.startswith("- Level")]) == 2 * (len(PLANS) - 1)
