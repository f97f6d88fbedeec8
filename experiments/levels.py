"""What do levels cost at equal bits, and what does a prefix of them give?

With --clips, one level against four on your own clips (16 frames of 64×64): equal bits, network and
steps. On moving shapes, four levels over seeds.
"""

from __future__ import annotations

from experiments.lab import Lab, Rounds
from experiments.tables import mean_text, paired, table, verdict
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as

COSTS = "for each seed a video tokenizer of 13,000 steps; with --clips also 2 of 1,600 steps"
TABLES = ("against", "seeds")
SHARDS, CLIPS = "shapes", "clips"
HELD_OUT = {"shapes": 64, "clips": 16}
KINDS = {"four": "four levels", "one": "one level"}


def plan(lab: Lab) -> Rounds:
    seeds = [f"shapes-seed-{seed}" for seed in lab.seed_range]
    kinds = [(kind, seed) for kind in KINDS for seed in lab.seed_range if lab.clips]
    return [
        [lab.shapes(SHARDS, 4000), *([lab.packed(CLIPS)] if lab.clips else [])],
        [lab.tokenizer(f"clips-{k}-{s}", f"small_{k}_level", CLIPS, seed=s) for k, s in kinds]
        + [lab.tokenizer(name, "moving_shapes", SHARDS, seed=seed) for seed, name in enumerate(seeds)],
        [lab.reconstruction(f"clips-{k}-{s}", CLIPS, HELD_OUT[CLIPS]) for k, s in kinds]
        + [lab.reconstruction(name, SHARDS, HELD_OUT[SHARDS]) for name in seeds],
    ]


def tables(lab: Lab) -> dict[str, str]:
    found = {"against": against(lab), "seeds": seeds_table(lab)}
    return {name: content for name, content in found.items() if content}


def against(lab: Lab) -> str | None:
    """One level, every prefix of four levels, and H.264 at equal bits; None if no seed has both."""
    pairs = []
    for seed in lab.seed_range:
        four, one = (lab.figures(f"clips-{kind}-{seed}-reconstruction") for kind in KINDS)
        if four and one:
            pairs.append((four, one))
    if not pairs:
        return None
    rows = []
    for which, kind in enumerate(KINDS):
        found = [pair[which] for pair in pairs]
        run = load_settings_as(VideoTokenizerRun, lab.run(f"clips-{kind}-0") / "config.yaml")
        cells = [grid.cells for grid in run.hierarchy.grids(run.clip.extent)]
        for k, bpp in enumerate(found[0]["bpp_by_prefix"]):
            name = KINDS[kind] if kind == "one" else f"{KINDS[kind]}, first {k + 1}"
            psnr, ssim = ([f[f"{figure}_by_prefix"][k] for f in found] for figure in ("psnr", "ssim"))
            quality = [mean_text(psnr), mean_text(ssim, 3)]
            used = " ".join(f"{f['codes_used'][k]:,}" for f in found) + f" of {found[0]['codes_possible'][k]:,}"
            dead = str(max(f["dead_bits"][k] for f in found))
            rows.append([name, str(sum(cells[: k + 1])), f"{bpp:.5f}", *quality, used, dead])
    h264 = pairs[0][0]["h264"]
    rows.append(["H.264 (x264 veryslow)", "", f"{h264['bpp']:.5f}", f"{h264['psnr']:.2f}", f"{h264['ssim']:.3f}", "", ""])
    all_levels = [[pair[which]["psnr_by_prefix"][-1] for pair in pairs] for which in (0, 1)]
    head = ("", "tokens a clip", "bits per pixel", "PSNR, dB", "SSIM", "codes used", "dead bits")
    return table(head, rows) + "\n\n- " + verdict("PSNR of all levels", "four levels", "one level", paired(*all_levels), "dB")


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
