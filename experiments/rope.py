"""Does it matter where RoPE places a cell: in space and time, and coarse cells at the centre of what they cover?"""

from __future__ import annotations

from experiments import language_models
from experiments.lab import Lab, Rounds

COSTS = "1 video tokenizer of 1,400 steps; for each seed 3 language models of 1,100 steps, 256 videos each"
TABLES = ("rope",)
FOLDER = language_models.FOLDER
VARIANTS = {
    language_models.DEMO: ("3D, aligned (the demo)", ()),
    "3d-unaligned": ("3D, each level in its own grid", ("llm.rope=3d-unaligned",)),
    "1d": ("1D, the slot's number", ("llm.rope=1d",)),
}


def plan(lab: Lab) -> Rounds:
    return language_models.rounds(lab, {name: words for name, (_, words) in VARIANTS.items()})


def tables(lab: Lab) -> dict[str, str]:
    found = language_models.compared(lab, {name: label for name, (label, _) in VARIANTS.items()})
    return {"rope": found} if found else {}
