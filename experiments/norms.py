"""Over what should the video tokenizer's blocks normalise: a whole frame, or the channels of each position? Equal steps."""

from __future__ import annotations

from experiments import tokenizers
from experiments.lab import Lab, Rounds

COSTS = "for each seed 2 video tokenizers of 1,400 steps"
TABLES = ("norms",)
VARIANTS = {"frame": "GroupNorm of a frame", "layer": "LayerNorm of a position"}
"""Value of `video_tokenizer.norm` and its label."""


def plan(lab: Lab) -> Rounds:
    return tokenizers.rounds(lab, {name: [f"video_tokenizer.norm={name}"] for name in VARIANTS})


def tables(lab: Lab) -> dict[str, str]:
    found = tokenizers.compared(lab, VARIANTS)
    return {"norms": found} if found else {}
