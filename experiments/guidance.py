"""How do guidance and temperature trade what a video shows of its caption against its variety, motion and colour?

Guidance 1 to 10, constant, at three temperatures; at one temperature also rising along the video, and on level 0 alone.
"""

from __future__ import annotations

from experiments import language_models
from experiments.lab import Lab, Rounds
from experiments.language_models import pooled, shares_text
from experiments.tables import mean_text, table

COSTS = "1 video tokenizer of 1,400 steps; for each seed a language model of 1,100 steps and 24 × 256 videos"
TABLES = ("guidance",)
FOLDER = language_models.FOLDER
GUIDANCE = (1, 2.5, 5, 7.5, 10)
TEMPERATURES = (0.4, 0.7, 1)
AT = 0.7
STRONG = GUIDANCE[1:]
SETTINGS = {
    **{f"g{g}-t{t}": (f"{g}", t, ("--guidance", f"{g}")) for t in TEMPERATURES for g in GUIDANCE},
    **{f"ramp-g{g}": (f"1 to {g}, rising", AT, ("--guidance", f"{g}", "--ramp")) for g in STRONG},
    **{f"coarse-g{g}": (f"{g} on level 0, else 1", AT, ("--guidance", f"{g},1")) for g in STRONG},
}
"""Name → guidance for people, temperature, and words of experiments/drawn.py."""
LOOKS = ("start_spread", "travel", "saturation")


def plan(lab: Lab) -> Rounds:
    *before, _ = language_models.rounds(lab, {language_models.DEMO: ()})
    measured = [
        lab.drawn(f"{name}-{seed}-drawn", f"{language_models.DEMO}-{seed}", *words, "--temperature", f"{temperature}")
        for seed in lab.seed_range
        for name, (_, temperature, words) in SETTINGS.items()
    ]
    return [*before, measured]


def tables(lab: Lab) -> dict[str, str]:
    rows, rendered = [], None
    for name, (guidance, temperature, _) in SETTINGS.items():
        if found := [figures for seed in lab.seed_range if (figures := lab.figures(f"{name}-{seed}-drawn"))]:
            counts = pooled(lab, name, language_models.finished(lab, name))
            shares = [shares_text(counts[of]) for of in language_models.ATTRIBUTES]
            looks = [mean_text([f[key] for f in found], 3) for key in LOOKS]
            rows.append([guidance, f"{temperature}", *shares, *looks])
            rendered = found[0]["rendered"]
    if rendered is None:
        return {}
    rows.append(["scenes as rendered", *[""] * 5, *(f"{rendered[key]:.3f}" for key in LOOKS)])
    head = ("guidance", "temperature", "all right", "colour", "shape", "motion", "spread of starts", "travel", "saturation")
    return {"guidance": table(head, rows)}
