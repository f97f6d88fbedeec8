"""How well does a model draw cells together, and what does learning it cost the other plans?

The demo's language model in raster order alone, and with `llm.groups`, half of its steps in the order of the groups, at equal
steps. The second draws by both plans; jacobi draws the codes of sequential. The regions are those whose price was lowest in
`python -m experiments grouped`: 26 passes a video instead of 180.
"""

from __future__ import annotations

import json

from experiments import language_models
from experiments.lab import Lab, Rounds
from experiments.tables import mean_text, of_shares, table, verdict

COSTS = "1 video tokenizer of 1,400 steps; for each seed 2 language models of 1,100 steps, 3 × 256 videos"
TABLES = ("together",)
FOLDER = language_models.FOLDER
GROUPS = [None, [1, 1, 2], [2, 2, 1], [2, 4, 2]]
MIXED = "groups"
VARIANTS = {language_models.DEMO: (), MIXED: (f"llm.groups={json.dumps(GROUPS)}", "train.grouped=0.5")}
ROWS = {
    language_models.DEMO: ("raster order alone", "sequential"),
    MIXED: ("both orders", "sequential"),
    f"{MIXED}-together": ("both orders", "grouped"),
}
"""Name of the figures → what was learned, and the plan that drew."""


def plan(lab: Lab) -> Rounds:
    rounds = language_models.rounds(lab, VARIANTS)
    together = [
        lab.drawn(f"{MIXED}-together-{seed}-drawn", f"{MIXED}-{seed}", "--plan", "grouped") for seed in lab.seed_range
    ]
    return [*rounds[:-1], [*rounds[-1], *together]]


def tables(lab: Lab) -> dict[str, str]:
    rows = []
    for name, labels in ROWS.items():
        if seeds := language_models.finished(lab, name):
            bits = [lab.bits_per_clip(f"{name.split('-')[0]}-{seed}", labels[1] == "grouped") or 0.0 for seed in seeds]
            counts = language_models.pooled(lab, name, seeds)
            shares = [language_models.shares_text(counts[of]) for of in language_models.ATTRIBUTES]
            rows.append([*labels, mean_text(bits, 1), *shares])
    head = ("learned", "drawn by", *language_models.HEAD[1:])
    return {"together": "\n".join([table(head, rows), "", *_verdicts(lab)])} if len(rows) == len(ROWS) else {}


def _verdicts(lab: Lab) -> list[str]:
    """Each attribute, drawn together against one by one, of just these models."""
    seeds = language_models.finished(lab, f"{MIXED}-together")
    one, other = (language_models.pooled(lab, name, seeds) for name in (f"{MIXED}-together", MIXED))
    return [
        "- " + verdict(f"Videos with the right {of}", "grouped", "sequential", of_shares(*one[of], *other[of]), "points", 100)
        for of in language_models.ATTRIBUTES[1:]
    ]
