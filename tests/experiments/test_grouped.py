"""What drawing cells together costs: the kinds of groups, blind cells against enumeration, the table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.grouped import ORDERS as PLANS
from experiments.grouped import passes, tables
from experiments.grouped_information import blind_nats, known_nats
from experiments.grouped_layout import RASTER, Groups, order, parse_groups
from experiments.grouped_training import ManyOrders
from experiments.lab import Lab
from hitvideo.hierarchy import Grid
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from tests.llm.three_levels import SECTION, layout, rows_of


def model_of(kind: type[LanguageModel]) -> LanguageModel:
    model = kind(SECTION, layout())
    initialize(model, SECTION.width, SECTION.layers, seed=0)
    return model


def test_the_two_kinds_of_groups() -> None:
    grid = Grid(1, 2, 4)  # cells 0 1 2 3 / 4 5 6 7
    assert Groups("block", (1, 2, 2)).cells(grid).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert Groups("spread", (1, 2, 2)).cells(grid).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert RASTER.cells(grid).T.tolist() == [list(range(8))]


@torch.no_grad()
def test_one_model_computes_in_several_orders() -> None:
    model = ManyOrders(SECTION, layout())
    initialize(model, SECTION.width, SECTION.layers, seed=0)
    plain, rows = model_of(LanguageModel), rows_of(2, seed=1)
    found = []
    for shape in ((1, 1, 1), (1, 2, 2), (2, 2, 2)):
        model.use(order(layout(), [RASTER, RASTER, Groups("block", shape)]))
        found.append(model(rows, 0.1, grouped=True)["loss_level_2"])
    assert torch.equal(found[0], plain(rows, 0.1)["loss_level_2"])
    assert len({float(loss) for loss in found}) == 3


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
