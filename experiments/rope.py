"""Does it matter where RoPE places a cell: in space and time, and coarse cells at the centre of what they cover?"""

from __future__ import annotations

from experiments import language_models
from experiments.lab import Lab, Rounds

COSTS = "1 video tokenizer of 1,400 steps; for each seed 3 language models of 1,100 steps, 256 videos each"
TABLES = ("rope",)
VARIANTS = {"3d": "3D, aligned", "3d-unaligned": "3D, each level in its own grid", "1d": "1D, the slot's number"}


def plan(lab: Lab) -> Rounds:
    return language_models.rounds(lab, {name: [f"llm.rope={name}"] for name in VARIANTS})


def tables(lab: Lab) -> dict[str, str]:
    found = language_models.compared(lab, VARIANTS)
    return {"rope": found} if found else {}
