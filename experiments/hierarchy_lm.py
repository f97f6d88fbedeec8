"""Does a language model do better on a hierarchy than on one level, with as many bits and as much compute?

Both video tokenizers have the same network, steps and 1,536 bits a clip; both language models the same network and the same
FLOPs, which gives the shorter rows of one level more steps. The paper's claim is that the hierarchy makes video easier to
generate from text. The bits of a clip are those of each video tokenizer's own codes: how much is left to chance, not how
good it looks.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments import language_models
from experiments.lab import CONFIGS, Lab, Rounds, level, levels_word, loss_words
from experiments.language_models import SHARDS, VALIDATE
from experiments.tables import table
from hitvideo.settings.programs import PretrainRun, load_settings_as

COSTS = "2 video tokenizers of 1,400 steps; for each seed 2 language models of 1,100 and about 1,560 steps, 256 videos each"
TABLES = ("hierarchy-lm",)
LEVELS = {
    "hierarchy": [level((8, 16, 16), 8), level((8, 8, 8), 8), level((4, 8, 8), 7), level((4, 4, 4), 9)],
    "one-level": [level((4, 4, 4), 12)],
}
LABELS = {"hierarchy": "four levels", "one-level": "one level"}


def settings(name: str, *words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, CONFIGS / "pretrain/tiny.yaml", [levels_word(LEVELS[name]), *words])


def words_of(name: str) -> Sequence[str]:
    """The overrides of one language model: its levels, and the steps that give it the hierarchy's FLOPs."""
    from hitvideo.planning.flops import meta_model, training_flops_per_row

    flops = {each: training_flops_per_row(meta_model(settings(each))) for each in ("hierarchy", name)}
    steps = round(settings("hierarchy").train.steps * flops["hierarchy"] / flops[name])
    return [levels_word(LEVELS[name]), f"train.steps={steps}"]


def plan(lab: Lab) -> Rounds:
    runs = [(f"{name}-{seed}", name, seed) for name in LEVELS for seed in lab.seed_range]
    chosen = {name: words_of(name) for name in LEVELS}
    return [
        [lab.shapes(SHARDS, 4000)],
        [
            lab.tokenizer(f"{name}-tokenizer", "tiny", SHARDS, levels_word(levels), *loss_words(len(levels)))
            for name, levels in LEVELS.items()
        ],
        [lab.tokens(f"{name}-tokenizer", SHARDS) for name in LEVELS]
        + [lab.reconstruction(f"{name}-tokenizer", SHARDS, 32) for name in LEVELS]
        + [lab.meaning(f"{name}-tokenizer", lab.few(256)) for name in LEVELS],
        [lab.language_model(run, f"{name}-tokenizer", *VALIDATE, *chosen[name], seed=seed) for run, name, seed in runs],
        [lab.drawn(f"{run}-drawn", run) for run, _, _ in runs],
    ]


def tables(lab: Lab) -> dict[str, str]:
    found = language_models.compared(lab, LABELS)
    if not found:
        return {}
    rows = []
    for name, label in LABELS.items():
        quality = lab.figures(f"{name}-tokenizer-reconstruction")
        run = settings(name)
        tokens, bits = run.hierarchy.tokens(run.clip.extent), run.hierarchy.bits_per_pixel
        psnr = f"{quality['psnr_by_prefix'][-1]:.2f} dB" if quality else ""
        rows.append([label, str(tokens), f"{bits:.4f}", psnr])
    return {"hierarchy-lm": table(("", "tokens a clip", "bits per pixel", "PSNR of reconstructions"), rows) + "\n\n" + found}
