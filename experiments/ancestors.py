"""Does the language model learn better if its input is told more of the coarse levels?

Against the plain model, at equal steps (the extra embeddings take no products): the ancestors of the cell to be predicted
(llm.ancestors), mistakes in the coarse levels of the input (train.corrupt), both, the average of the weights (train.ema), and
equal weight for every token instead of every level (train.level_balance).
"""

from __future__ import annotations

from experiments import language_models
from experiments.lab import Lab, Rounds

COSTS = "1 video tokenizer of 1,400 steps; for each seed 6 language models of 1,100 steps, 256 videos each"
TABLES = ("ancestors",)
FOLDER = language_models.FOLDER
PLAIN = "llm.ancestors=false"
VARIANTS = {
    "plain": ("plain", (PLAIN,)),
    language_models.DEMO: ("ancestors (the demo)", ()),
    "corrupt": ("mistakes in 10 %", (PLAIN, "train.corrupt=0.1")),
    "both": ("ancestors and mistakes", ("train.corrupt=0.1",)),
    "average": ("average of weights", (PLAIN, "train.ema=0.99")),
    "tokens": ("every token equal", (PLAIN, "train.level_balance=0")),
}


def plan(lab: Lab) -> Rounds:
    return language_models.rounds(lab, {name: words for name, (_, words) in VARIANTS.items()})


def tables(lab: Lab) -> dict[str, str]:
    found = language_models.compared(lab, {name: label for name, (label, _) in VARIANTS.items()})
    return {"ancestors": found} if found else {}
