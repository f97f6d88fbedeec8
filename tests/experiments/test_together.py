"""The table of videos drawn together: one row for what was learned and how it was drawn, and what can be said of the plans."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.lab import Lab
from experiments.together import ROWS, plan, tables


def test_both_plans_draw_from_the_same_model(tmp_path: Path) -> None:
    lab = Lab(tmp_path, seeds=1)
    runs = {step.done.stem: step.words[step.words.index("--run") + 1] for step in plan(lab)[-1]}
    assert runs["groups-0-drawn"] == runs["groups-together-0-drawn"] != runs["demo-0-drawn"]
    (grouped,) = [step for step in plan(lab)[-1] if "--plan" in step.words]
    assert grouped.words[-1] == "grouped"


def test_the_table_compares_the_plans(tmp_path: Path) -> None:
    lab = Lab(tmp_path, seeds=2)
    (tmp_path / "figures").mkdir()
    right = {"demo": 90, "groups": 95, "groups-together": 60}
    for seed in lab.seed_range:
        for name in ROWS:
            counts = {of: [right[name], 100] for of in ("all_right", "colour", "shape", "motion")}
            (tmp_path / f"figures/{name}-{seed}-drawn.json").write_text(json.dumps({"counts": counts}))
    lines = tables(lab)["together"].splitlines()
    shown = {tuple(line.strip("| ").split(" | ")[:2]): line for line in lines if line.startswith("| ")}
    assert "60 % (53–67)" in shown["both orders", "grouped"]
    assert "95 % (91–97)" in shown["both orders", "sequential"]
    assert ("raster order alone", "sequential") in shown
    assert sum(line.startswith("- ") and "grouped is lower than sequential" in line for line in lines) == 3
