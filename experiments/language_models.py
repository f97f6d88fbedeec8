"""What experiments on the language model share: one video tokenizer, variants of the model over seeds, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab import Lab, Rounds
from experiments.tables import mean_text, of_shares, paired, table, verdict
from hitvideo.metrics.intervals import share, share_text

FOLDER = "language-models"
"""These experiments work in one folder, because they share the video tokenizer, its tokens, and the demo's own models."""
SHARDS, TOKENIZER, DEMO = "shapes", "tokenizer", "demo"
VALIDATE = ("data.validation_samples=256", "train.validation_batches=16", "train.log_every=50")
HEAD = ("", "bits a clip (held out)", "all right", "colour", "shape", "motion")


def rounds(lab: Lab, variants: Mapping[str, Sequence[str]]) -> Rounds:
    """The demo's video tokenizer and tokens, then each variant of its language model (name → overrides) for each seed."""
    names = [(f"{name}-{seed}", words, seed) for name, words in variants.items() for seed in lab.seed_range]
    return [
        [lab.shapes(SHARDS, 4000)],
        [lab.tokenizer(TOKENIZER, "tiny", SHARDS)],
        [lab.tokens(TOKENIZER, SHARDS)],
        [lab.language_model(name, TOKENIZER, *VALIDATE, *words, seed=seed) for name, words, seed in names],
        [lab.drawn(f"{name}-drawn", name) for name, _, _ in names],
    ]


def finished(lab: Lab, variant: str) -> list[int]:
    """The seeds of a variant that are trained and measured."""
    return [seed for seed in lab.seed_range if lab.figures(f"{variant}-{seed}-drawn")]


def compared(lab: Lab, variants: Mapping[str, str]) -> str | None:
    """A row for each variant (name → label), and what can be said of each against the first; None if that is not finished."""
    base, *others = variants
    rows, said = [], []
    for name, label in variants.items():
        if seeds := finished(lab, name):
            bits = [lab.bits_per_clip(f"{name}-{seed}") or 0.0 for seed in seeds]
            rows.append([label, mean_text(bits, 1), *(shares_text(pooled(lab, name, seeds)[of]) for of in ATTRIBUTES)])
    for name in others:
        shared = [seed for seed in finished(lab, name) if seed in finished(lab, base)]
        if shared:
            said += verdicts(lab, shared, (name, variants[name]), (base, variants[base]))
    return "\n".join([table(HEAD, rows), "", *said]) if finished(lab, base) else None


ATTRIBUTES = ("all_right", "colour", "shape", "motion")


def pooled(lab: Lab, variant: str, seeds: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Counts of right ones, and of how many, summed over seeds."""
    found: list[dict[str, Any]] = [(lab.figures(f"{variant}-{seed}-drawn") or {})["counts"] for seed in seeds]
    return {name: (sum(f[name][0] for f in found), sum(f[name][1] for f in found)) for name in ATTRIBUTES}


def shares_text(count: tuple[int, int]) -> str:
    """A counted share with its 95 % interval."""
    return share_text(share(*count))


def verdicts(lab: Lab, seeds: Sequence[int], one: tuple[str, str], other: tuple[str, str]) -> list[str]:
    """Sentences on held-out bits and on videos that are all right: over seeds, and for just these models."""
    bits = [[lab.bits_per_clip(f"{name}-{seed}") or 0.0 for seed in seeds] for name, _ in (one, other)]
    counts = [pooled(lab, name, seeds)["all_right"] for name, _ in (one, other)]
    rates = [[_rate(lab, name, seed) for seed in seeds] for name, _ in (one, other)]
    return [
        "- " + verdict("Bits a clip", one[1], other[1], paired(*bits), "bits"),
        "- " + verdict("Share of videos that are all right", one[1], other[1], paired(*rates), "points", 100),
        "- " + verdict("The same, for just these models", one[1], other[1], of_shares(*counts[0], *counts[1]), "points", 100),
    ]


def _rate(lab: Lab, variant: str, seed: int) -> float:
    right, of = pooled(lab, variant, [seed])["all_right"]
    return right / of
