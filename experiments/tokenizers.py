"""What experiments on variants of the demo's video tokenizer share: train each over seeds, measure quality and meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.lab import Lab, Rounds
from experiments.tables import mean_text, paired, table, verdict

SHARDS, HELD_OUT = "shapes", 32
READ = ("colour", "shape", "motion")


def rounds(lab: Lab, variants: Mapping[str, Sequence[str]]) -> Rounds:
    """Each variant (name → overrides) for each seed, on moving shapes; seed by seed, so that one that is stopped has pairs."""
    names = [(f"{name}-{seed}", words, seed) for seed in lab.seed_range for name, words in variants.items()]
    return [
        [lab.shapes(SHARDS, 4000)],
        [lab.tokenizer(name, "tiny", SHARDS, *words, seed=seed) for name, words, seed in names],
        [lab.reconstruction(name, SHARDS, HELD_OUT) for name, _, _ in names]
        + [lab.meaning(name, lab.few(256)) for name, _, _ in names],
    ]


def compared(lab: Lab, variants: Mapping[str, str]) -> str | None:
    """A row for each variant (name → label) and prefix, and the PSNR of all levels against the first variant's."""
    rows, said, base = [], [], next(iter(variants))
    psnr: dict[str, dict[int, float]] = {}
    for name, label in variants.items():
        seeds = [s for s in lab.seed_range if lab.figures(f"{name}-{s}-reconstruction") and lab.figures(f"{name}-{s}-meaning")]
        quality = [lab.figures(f"{name}-{seed}-reconstruction") or {} for seed in seeds]
        meaning = [lab.figures(f"{name}-{seed}-meaning") or {} for seed in seeds]
        psnr[name] = {seed: q["psnr_by_prefix"][-1] for seed, q in zip(seeds, quality, strict=True)}
        for k in range(len(quality[0]["psnr_by_prefix"]) if quality else 0):
            read = [mean_text([100 * m["rows"][k]["pixels"][of]["rate"] for m in meaning], 0) for of in READ]
            used = mean_text([q["codes_used"][k] for q in quality], 0) + f" of {quality[0]['codes_possible'][k]:,}"
            bits = f"{quality[0]['bpp_by_prefix'][k]:.4f}"
            rows.append([label, f"0 … {k}", bits, mean_text([q["psnr_by_prefix"][k] for q in quality]), *read, used])
        shared = [seed for seed in seeds if seed in psnr[base]]
        if name != base and shared:
            difference = paired([psnr[name][s] for s in shared], [psnr[base][s] for s in shared])
            said.append("- " + verdict("PSNR of all levels", label, variants[base], difference, "dB"))
    head = ("", "levels", "bits per pixel", "PSNR, dB", *(f"{of} read, %" for of in READ), "codes used")
    return "\n".join([table(head, rows), "", *said]) if rows else None
