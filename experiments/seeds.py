"""How much do seeds differ? Four levels on moving shapes, the longest training of a video tokenizer that is shown here."""

from __future__ import annotations

from experiments.lab import Lab, Rounds
from experiments.tables import table

COSTS = "for each seed a video tokenizer of 13,000 steps"
TABLES = ("seeds",)
SHARDS, HELD_OUT = "shapes", 64


def plan(lab: Lab) -> Rounds:
    names = [(f"shapes-seed-{seed}", seed) for seed in lab.seed_range]
    return [
        [lab.shapes(SHARDS, 4000)],
        [lab.tokenizer(name, "moving_shapes", SHARDS, seed=seed) for name, seed in names],
        [lab.reconstruction(name, SHARDS, HELD_OUT) for name, _ in names],
    ]


def tables(lab: Lab) -> dict[str, str]:
    found = seeds_table(lab)
    return {"seeds": found} if found else {}


def seeds_table(lab: Lab) -> str | None:
    """PSNR by prefix of four levels on moving shapes, one row per finished seed; None if there are none."""
    rows = []
    for seed in lab.seed_range:
        if found := lab.figures(f"shapes-seed-{seed}-reconstruction"):
            used = ", ".join(f"{used}" for used in found["codes_used"]) + f" of {found['codes_possible'][0]}"
            balance = ", ".join(f"{value:.2f}" for value in found["bit_balance"])
            psnr = [f"{value:.2f}" for value in found["psnr_by_prefix"]]
            rows.append([str(seed), *psnr, used, balance, f"{found['h264']['psnr']:.2f}"])
    head = ("seed", "1 level, dB", "2", "3", "4", "codes used by level", "least even bit by level", "H.264, dB")
    return table(head, rows) if rows else None
