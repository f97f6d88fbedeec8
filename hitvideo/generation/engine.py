"""Draws codes for prompts, level by level, coarse to fine, with classifier-free guidance.

All prompts are drawn together; unless guidance is 1, each has a second row with the empty caption. At a slot only its own
level's indices are possible. Stopping after the first levels gives the storyboard: the same video without its detail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch

from hitvideo.errors import ConfigError
from hitvideo.generation.sampling import Sampling, guide, sample_entry
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.text import TextTokenizer


@torch.no_grad()
def generate_codes(
    model: LanguageModel,
    text: TextTokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    levels: int | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[np.ndarray]:
    """Indices of the first `levels` levels, each (prompts, t, h, w). `progress` is told of every token drawn."""
    layout = model.layout
    levels = len(layout.grids) if levels is None else levels
    if not 1 <= levels <= len(layout.grids):
        raise ConfigError(f"--levels {levels}: the run has {len(layout.grids)} levels, ask for 1 to {len(layout.grids)}")
    device = model.level.weight.device
    guided = sampling.guidance != 1.0
    captions = [*prompts, *[""] * len(prompts)] if guided else list(prompts)
    stop = layout.starts[levels]
    rows = torch.zeros(len(captions), stop, layout.vocab.width, dtype=torch.long, device=device)
    window = np.stack([layout.text_window(text.encode(caption)) for caption in captions])
    rows[:, : layout.window, 0] = torch.from_numpy(window).to(device)
    cache = model.new_cache(len(captions))
    random = torch.Generator(device=device).manual_seed(seed)
    fresh = rows[:, : layout.window]
    for slot in range(layout.window, stop):
        level = int(layout.levels[slot])
        hidden = model.hidden(fresh, start=cache.seen, cache=cache)[:, -1]  # (B, D)
        rows[:, slot, : len(layout.vocab.ranges[level])] = _draw_slot(model, level, hidden, sampling, random, guided)
        fresh = rows[:, slot : slot + 1]
        if progress:
            progress(1)
    drawn = rows[: len(prompts)].cpu().numpy()
    per_prompt = [layout.split(row, levels) for row in drawn]
    return [np.stack(level) for level in zip(*per_prompt, strict=True)]


def _draw_slot(
    model: LanguageModel, level: int, hidden: torch.Tensor, sampling: Sampling, random: torch.Generator, guided: bool
) -> torch.Tensor:
    """The ids of one slot, sub-code after sub-code: (B, sub-codes). Both halves of a guided batch get the same."""
    vocab, head = model.layout.vocab, cast(LevelHead, model.heads[level])
    chosen = torch.zeros(hidden.shape[0], 0, dtype=torch.long, device=hidden.device)
    for _ in vocab.ranges[level]:
        logits = head.logits(hidden, chosen).float()  # (B, 2**bits)
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, sampling.guidance)
        entry = sample_entry(logits, sampling, random)
        entry = torch.cat([entry, entry]) if guided else entry
        chosen = torch.cat([chosen, entry[:, None]], dim=1)
    return vocab.ids(level, chosen)
