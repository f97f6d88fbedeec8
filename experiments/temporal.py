"""How much quality does a longer cell in time lose at equal bits per second, where little moves and where much moves?

One level with cells of 2, 4 and 8 frames; clips of 32 frames, so that the longest cells still are four. The networks have
the same number of residual blocks, all of one width: a network with fewer steps down has more blocks before each.
"""

from __future__ import annotations

from experiments.lab import Lab, Rounds, clip_words, level, levels_word, loss_words
from experiments.tables import mean_text, paired, table, verdict

COSTS = "for each seed 3 video tokenizers of 1,500 steps on 32 frames; with --clips (32 frames of 64×64) as many again"
TABLES = ("temporal",)
FRAMES, STEPS = 32, 1500
CELLS = {2: 6, 4: 4, 8: 3}
"""Frames a cell → blocks per width: 2 × 6 = 3 × 4 = 4 × 3."""
KINDS = {"shapes": ("moving shapes", "tiny", 32, 4, 12, 48, 64), "clips": ("your clips", "small_one_level", 64, 8, 14, 64, 16)}
"""Label, configuration, side of a clip and of a cell, bits of a cell of 4 frames, width, and clips held out."""


def words(kind: str, frames: int) -> list[str]:
    _, _, side, cell, bits, width, held_out = KINDS[kind]
    widths = frames.bit_length()  # one more than the steps that halve time; with patches of 4×4, space needs no more of them
    return [
        *clip_words(FRAMES, side),
        levels_word([level((frames, cell, cell), bits * frames // 4)]),
        *loss_words(1),
        f"video_tokenizer.channels={[width] * widths}",
        f"video_tokenizer.blocks={CELLS[frames]}",
        f"train.steps={STEPS}",
        f"data.validation_clips={held_out}",
    ]


def plan(lab: Lab) -> Rounds:
    kinds = [kind for kind in KINDS if kind == "shapes" or lab.clips]
    runs = [(f"{kind}-{frames}-{seed}", kind, frames, seed) for kind in kinds for frames in CELLS for seed in lab.seed_range]
    return [
        [lab.shapes("shapes", 4000, FRAMES) if kind == "shapes" else lab.packed("clips") for kind in kinds],
        [lab.tokenizer(name, KINDS[kind][1], kind, *words(kind, frames), seed=seed) for name, kind, frames, seed in runs],
        [lab.reconstruction(name, kind, KINDS[kind][-1]) for name, kind, _, _ in runs],
    ]


def tables(lab: Lab) -> dict[str, str]:
    rows, said = [], []
    for kind, (label, *_) in KINDS.items():
        by_frames = {}
        for frames in CELLS:
            found = {s: f for s in lab.seed_range if (f := lab.figures(f"{kind}-{frames}-{s}-reconstruction"))}
            if found:
                halves = {h: [f["psnr_by_motion"][h][-1] for f in found.values()] for h in ("slow", "fast")}
                by_frames[frames] = {s: {h: f["psnr_by_motion"][h][-1] for h in halves} for s, f in found.items()}
                bits = next(iter(found.values()))["bpp_by_prefix"][-1]
                rows.append([label, str(frames), f"{bits:.4f}", mean_text(halves["slow"]), mean_text(halves["fast"])])
        shortest = by_frames.get(min(CELLS), {})
        for frames in list(by_frames)[1:]:
            shared = [seed for seed in by_frames[frames] if seed in shortest]
            for half, how in (("slow", "little motion"), ("fast", "much motion")):
                if shared:
                    values = [[side[seed][half] for seed in shared] for side in (by_frames[frames], shortest)]
                    what, one, other = f"{label}, {how}", f"PSNR with cells of {frames} frames", f"with {min(CELLS)}"
                    said.append("- " + verdict(what, one, other, paired(*values), "dB"))
    head = ("", "frames a cell", "bits per pixel", "PSNR, little motion", "PSNR, much motion")
    return {"temporal": "\n".join([table(head, rows), "", *said])} if rows else {}
