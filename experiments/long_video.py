"""Does the whole path work on 64 frames, the paper's length, on a pyramid like the paper's?

64 frames of 64×64 at 8 fps. The two pyramids have the paper's levels, with a quarter of its side, of 18 and of 17 bits. The
tokenizer learns its coarse levels first; then a language model is trained on its tokens.
"""

from __future__ import annotations

import json

from experiments.lab import Lab, Rounds, clip_words, level, levels_word
from experiments.language_models import ATTRIBUTES, VALIDATE, pooled, shares_text
from experiments.tables import mean_text, table
from hitvideo.hierarchy import Extent, Hierarchy

COSTS = "for each seed 2 video tokenizers of 3,000 steps on 64 frames of 64×64, and 2 language models of 2,000 steps"
TABLES = ("long",)
FRAMES, SIDE, SHARDS = 64, 64, "shapes"
LEVELS = {
    "18-bit": [level((64, 32, 32), 18), level((32, 32, 32), 18), level((16, 16, 16), 18), level((8, 16, 16), 18)],
    "17-bit": [level((32, 32, 32), 17), level((16, 32, 32), 17), level((16, 16, 16), 17), level((8, 16, 16), 17)],
}
PHASES = [
    {"name": "coarse", "steps": 600, "levels": 2},
    {"name": "all", "steps": 1800},
    {"name": "whole", "steps": 600, "level_dropout": 0},
]
NETWORK = ["video_tokenizer.channels=[32, 48, 64, 64]", "video_tokenizer.latent_channels=32", "train.micro_batch=4"]


def plan(lab: Lab) -> Rounds:
    shape = clip_words(FRAMES, SIDE)
    of = {name: [*shape, levels_word(levels)] for name, levels in LEVELS.items()}
    phases = [f"phases={json.dumps(PHASES)}", f"train.steps={sum(int(str(p['steps'])) for p in PHASES)}"]
    runs = [(f"{name}-tokenizer-{seed}", name, seed) for name in LEVELS for seed in lab.seed_range]
    models = [f"{name}-{seed}" for _, name, seed in runs]
    return [
        [lab.shapes(SHARDS, 4000, FRAMES, SIDE)],
        [lab.tokenizer(run, "tiny", SHARDS, *of[name], *NETWORK, *phases, seed=seed) for run, name, seed in runs],
        [lab.tokens(run, SHARDS) for run, _, _ in runs] + [lab.reconstruction(run, SHARDS, 32) for run, _, _ in runs],
        [
            lab.language_model(model, run, *VALIDATE, *of[name], "train.steps=2000", seed=seed)
            for model, (run, name, seed) in zip(models, runs, strict=True)
        ],
        [lab.drawn(f"{model}-drawn", model, num=128) for model in models],
    ]


def tables(lab: Lab) -> dict[str, str]:
    rows = []
    for name, levels in LEVELS.items():
        seeds = [seed for seed in lab.seed_range if lab.figures(f"{name}-{seed}-drawn")]
        quality = [lab.figures(f"{name}-tokenizer-{seed}-reconstruction") or {} for seed in seeds]
        if seeds:
            hierarchy = Hierarchy.model_validate({"levels": levels})
            tokens = hierarchy.tokens(Extent(FRAMES, SIDE, SIDE))
            prefixes = [mean_text([q["psnr_by_prefix"][k] for q in quality], 1) for k in range(len(levels))]
            bits = mean_text([lab.bits_per_clip(f"{name}-{seed}") or 0.0 for seed in seeds], 0)
            counts = pooled(lab, name, seeds)
            compression = f"{hierarchy.compression:.1f}×"
            rows.append([name, str(tokens), compression, *prefixes, bits, *(shares_text(counts[of]) for of in ATTRIBUTES)])
    head = ("", "tokens", "compression", "PSNR of 1 level, dB", "2", "3", "4", "bits a clip", "all right", *ATTRIBUTES[1:])
    return {"long": table(head, rows)} if rows else {}
