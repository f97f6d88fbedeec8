"""Is it better to train the coarse levels first, or all levels at once? Equal steps."""

from __future__ import annotations

import json

from experiments import tokenizers
from experiments.lab import Lab, Rounds

COSTS = "for each seed 3 video tokenizers of 1,400 steps"
TABLES = ("schedule",)
VARIANTS = {
    "at-once": ("all levels at once", []),
    "coarse-first": (
        "levels 0 to 1, then all",
        [{"name": "coarse", "steps": 560, "levels": 2}, {"name": "all", "steps": 840}],
    ),
    "one-by-one": (
        "one level after the other",
        [{"name": f"levels-{k}", "steps": 280, "levels": k} for k in (1, 2, 3)] + [{"name": "all", "steps": 560}],
    ),
}
"""Label and phases; together they have the 1,400 steps of pretrain_tokenizer/tiny.yaml."""


def plan(lab: Lab) -> Rounds:
    # No gradual quantisation: it belongs to the first phase, so each variant would have another share of unquantised clips.
    variants = {
        name: ["train.steps=1400", "loss.unquantized_until=0", *([f"phases={json.dumps(phases)}"] if phases else [])]
        for name, (_, phases) in VARIANTS.items()
    }
    return tokenizers.rounds(lab, variants)


def tables(lab: Lab) -> dict[str, str]:
    found = tokenizers.compared(lab, {name: label for name, (label, _) in VARIANTS.items()})
    return {"schedule": found} if found else {}
