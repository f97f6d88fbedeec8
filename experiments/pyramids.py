"""Which quantiser, which path between the latents and the coarse levels, and which pyramid? At equal bits and steps.

Measured by PSNR, and by whether a scene's colour, shape and motion can be read from what each prefix of levels decodes to.
"""

from __future__ import annotations

from experiments import tokenizers
from experiments.lab import Lab, Rounds, level, levels_word, loss_words

COSTS = "for each seed a video tokenizer of 1,400 steps for each of the variants"
TABLES = ("pyramids",)
KEEPS_TIME = levels_word([level((4, 16, 16), 9), level((4, 8, 8), 9), level((4, 4, 4), 10)])
"""Two cells in time on every level: 8·9 + 32·9 + 128·10 = 1,640 bits, the demo's pyramid has 180·9 = 1,620."""
LFQ = ("video_tokenizer.quantizer=lfq", "loss.entropy=[0.3,0.05,0.03,0.03]")
FSQ = ("video_tokenizer.quantizer=fsq", "loss.entropy=0")
VARIANTS = {
    "demo": ("LFQ and FSQ, block (the demo)", ()),
    "cells": ("LFQ and FSQ, cells", ("video_tokenizer.level_path=cells",)),
    "mean": ("LFQ and FSQ, mean", ("video_tokenizer.level_path=mean",)),
    "lfq": ("LFQ, block", LFQ),
    "fsq": ("FSQ, block", FSQ),
    "keeps-time": ("LFQ and FSQ, block, time on all levels", (KEEPS_TIME, *loss_words(3))),
}
"""Name → label and overrides of pretrain_tokenizer/tiny.yaml; the first is what the others are compared with."""


def plan(lab: Lab) -> Rounds:
    return tokenizers.rounds(lab, {name: words for name, (_, words) in VARIANTS.items()})


def tables(lab: Lab) -> dict[str, str]:
    found = tokenizers.compared(lab, {name: label for name, (label, _) in VARIANTS.items()})
    return {"pyramids": found} if found else {}
