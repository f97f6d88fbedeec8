"""Which quantiser, which path between the latents and the coarse levels, and which pyramid? At equal bits and steps.

Measured by PSNR, and by whether a scene's colour, shape and motion can be read from what each prefix of levels decodes to.
"""

from __future__ import annotations

from experiments import tokenizers
from experiments.lab import Lab, Rounds, level, levels_word, loss_words

COSTS = "for each seed a video tokenizer of 1,100 steps for each of the variants"
TABLES = ("pyramids",)
KEEPS_TIME = levels_word([level((4, 16, 16), 9), level((4, 8, 8), 9), level((4, 4, 4), 10)])
"""Two cells in time on every level: 8·9 + 32·9 + 128·10 = 1,640 bits, the demo's pyramid has 180·9 = 1,620."""
VARIANTS = {
    "lfq-cells": ("LFQ, cells", ("video_tokenizer.quantizer=lfq", "video_tokenizer.level_path=cells")),
    "lfq-mean": ("LFQ, mean", ("video_tokenizer.quantizer=lfq", "video_tokenizer.level_path=mean")),
    "lfq-block": ("LFQ, block", ("video_tokenizer.quantizer=lfq", "video_tokenizer.level_path=block")),
    "fsq-cells": ("FSQ, cells", ("video_tokenizer.quantizer=fsq", "video_tokenizer.level_path=cells", "loss.entropy=0")),
    "fsq-block": ("FSQ, block", ("video_tokenizer.quantizer=fsq", "video_tokenizer.level_path=block", "loss.entropy=0")),
    "lfq-keeps-time": ("LFQ, cells, time on all levels", ("video_tokenizer.level_path=cells", KEEPS_TIME, *loss_words(3))),
}
"""Name → label and overrides of pretrain_tokenizer/tiny.yaml; the first is what the others are compared with."""


def plan(lab: Lab) -> Rounds:
    return tokenizers.rounds(lab, {name: words for name, (_, words) in VARIANTS.items()})


def tables(lab: Lab) -> dict[str, str]:
    found = tokenizers.compared(lab, {name: label for name, (label, _) in VARIANTS.items()})
    return {"pyramids": found} if found else {}
