"""What do levels cost at equal bits, and what does a prefix of them give?

One level against four on your own clips (16 frames of 64×64): equal bits, network and steps, and H.264 beside them.
"""

from __future__ import annotations

from experiments.lab import Lab, Rounds
from experiments.tables import mean_text, paired, table, verdict
from hitvideo.errors import ConfigError
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as

COSTS = "needs --clips; for each seed 2 video tokenizers of 1,600 steps"
TABLES = ("against",)
CLIPS, HELD_OUT = "clips", 16
KINDS = {"four": "four levels", "one": "one level"}


def plan(lab: Lab) -> Rounds:
    """Raises ConfigError without clips: moving shapes are too simple to tell what levels cost."""
    if not lab.clips:
        raise ConfigError("the experiment `levels` trains on your own clips: add --clips SRC, a folder of captioned videos")
    kinds = [(f"clips-{kind}-{seed}", f"small_{kind}_level", seed) for kind in KINDS for seed in lab.seed_range]
    return [
        [lab.packed(CLIPS)],
        [lab.tokenizer(name, config, CLIPS, seed=seed) for name, config, seed in kinds],
        [lab.reconstruction(name, CLIPS, HELD_OUT) for name, _, _ in kinds],
    ]


def tables(lab: Lab) -> dict[str, str]:
    found = against(lab)
    return {"against": found} if found else {}


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
