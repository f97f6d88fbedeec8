"""Draws codes for a batch of prompts, level by level, coarse to fine, with classifier-free guidance.

Unless guidance is 1, each prompt has a second row, with the negative prompt. At a slot only its own level's indices are
possible. Stopping after the first levels gives the storyboard: the same video without its detail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from hitvideo.errors import ConfigError
from hitvideo.generation import plans
from hitvideo.generation.logits import guide, restrict, strengths
from hitvideo.generation.noise import level_noise, race
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.decoding import Decoder, can_decode
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.groups import GroupedLayout
from hitvideo.sequence.text import TextTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One video to draw. `given`: its first levels, each (t, h, w), if they are drawn already."""

    prompt: str
    seed: int
    given: Sequence[np.ndarray] = ()


@dataclass
class Listener:
    """Who is told how a drawing gets on; each function may be None."""

    tokens: Callable[[int], object] | None = None
    """Of tokens that every video of the batch has gained."""
    level: Callable[[int], object] | None = None
    """Of a level that begins."""


@dataclass
class Drawn:
    """What a batch of requests became."""

    codes: list[np.ndarray]
    """Indices of each level, (B, t, h, w), the given ones included."""
    passes: list[int] = field(default_factory=list)
    """Passes of the model for each level; 0 for a given one."""
    seconds: list[float] = field(default_factory=list)
    cache_bytes: int = 0


def generate_codes(
    model: LanguageModel,
    text: TextTokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    levels: int | None = None,
    seed: int | Sequence[int] = 0,
    progress: Callable[[int], object] | None = None,
) -> list[np.ndarray]:
    """Indices of the first `levels` levels, each (prompts, t, h, w), in one batch.

    `seed`: one for each prompt; a single number S means S, S + 1, …, so that no two prompts have the same noise. `progress` is
    told of every token drawn.
    """
    seeds = range(seed, seed + len(prompts)) if isinstance(seed, int) else seed
    requests = [Request(prompt, one) for prompt, one in zip(prompts, seeds, strict=True)]
    return draw(model, text, requests, sampling, levels, Listener(progress)).codes


def draw(
    model: LanguageModel,
    text: TextTokenizer,
    requests: Sequence[Request],
    sampling: Sampling,
    levels: int | None = None,
    listener: Listener | None = None,
) -> Drawn:
    """Draw the first `levels` levels (all by default) of every request, in one batch. All have equally many given levels."""
    layout = model.layout
    levels = len(layout.grids) if levels is None else levels
    if not 1 <= levels <= len(layout.grids):
        raise ConfigError(f"--levels {levels}: the run has {len(layout.grids)} levels, ask for 1 to {len(layout.grids)}")
    plans.check(sampling, layout)
    if sampling.plan == "grouped":
        model.grouped_slots(model.level.weight.device)
    model.slots(model.level.weight.device)  # they stay with the model, so they are made outside of inference mode
    with torch.inference_mode():
        return _draw(_Batch(model, text, requests, sampling, levels), listener or Listener())


def _draw(batch: _Batch, listener: Listener) -> Drawn:
    drawn = Drawn([], cache_bytes=batch.cache.bytes)
    layout, levels = batch.layout, batch.levels
    for level in range(levels):
        begin, passes = time.perf_counter(), 0
        if level >= batch.given:
            passes = batch.draw_level(level, listener)
        drawn.passes.append(passes)
        drawn.seconds.append(time.perf_counter() - begin)
    rows = batch.rows[: len(batch.seeds)].cpu().numpy()
    per_prompt = [layout.split(row, levels) for row in rows]
    drawn.codes = [np.stack(level) for level in zip(*per_prompt, strict=True)]
    return drawn


class _Batch:
    """Rows that are drawn together: `rows` (halves · B, slots, width) of ids, the guided half last, and their cache."""

    def __init__(
        self, model: LanguageModel, text: TextTokenizer, requests: Sequence[Request], sampling: Sampling, levels: int
    ) -> None:
        self.model, self.sampling, self.levels = model, sampling, levels
        self.seeds = [request.seed for request in requests]
        self.layout = layout = model.layout
        self.device = model.level.weight.device
        self.given = len(requests[0].given)
        self.guided = sampling.guides(self.given, levels)
        captions = [request.prompt for request in requests]
        captions += [sampling.negative] * len(captions) if self.guided else []
        rows = np.zeros((len(captions), layout.starts[levels], layout.vocab.width), np.int64)
        rows[:, : layout.window, 0] = np.stack([layout.text_window(text.encode(caption)) for caption in captions])
        for number, row in enumerate(rows):
            for level, indices in enumerate(requests[number % len(requests)].given):
                start, stop = layout.starts[level : level + 2]
                row[start:stop, : layout.vocab.width] = layout.vocab.to_ids(level, indices.reshape(-1))
        self.rows = torch.from_numpy(rows).to(self.device)
        self.cache = model.new_cache(len(rows), plans.slots(sampling, layout, levels))
        self.decoder = Decoder(model, self.cache) if can_decode(model) and sampling.plan != "grouped" else None

    def draw_level(self, level: int, listener: Listener) -> int:
        """Fill the level's slots; returns the passes it took."""
        self._drop_the_guided_half(level)
        if listener.level:
            listener.level(level)
        self._begin(level)
        noise = level_noise(self.layout, level, self.seeds, self.device)
        if self.sampling.plan == "grouped":
            return self._draw_groups(level, noise, listener)
        start, stop = self.layout.starts[level : level + 2]
        exact = self.device.type == "cpu" and self.model.level.weight.dtype == torch.float32
        pace = plans.Pace(self.sampling.plan, exact)
        slot = guessed = start
        passes = 0
        while slot < stop:
            begin, window = time.perf_counter(), pace.window
            last = min(slot + window, stop)
            guessed = max(guessed, slot)
            if window > 1 and guessed < last:
                self._guess(level, guessed, last, noise)
                guessed = last
            found = self._draw_window(level, slot, last, noise)
            gained = self._accept(level, slot, found)
            pace.passed(window, gained, time.perf_counter() - begin)
            slot += gained
            passes += 1
            if listener.tokens:
                listener.tokens(gained)
        return passes

    def _draw_groups(self, level: int, noise: list[torch.Tensor], listener: Listener) -> int:
        """Fill the level's slots, a group a pass; returns the passes."""
        grouped = cast(GroupedLayout, self.layout.grouped)
        for cells in grouped.levels[level]:
            # What predicts the cells lies side by side, behind all that they may see.
            first, stop = int(grouped.predicts[cells[0] - 1]), int(grouped.predicts[cells[-1] - 1]) + 1
            hidden = self.model.grouped_hidden(self.rows, self.cache.seen, stop, self.cache)[:, first - stop :]
            where = torch.from_numpy(cells).to(self.device)
            found = self._drawn(hidden, where - self.layout.starts[level], noise)
            self.rows[:, where, : found.shape[-1]] = self._all_halves(found, len(self.rows))
            if listener.tokens:
                listener.tokens(len(cells))
        return len(grouped.levels[level])

    def _begin(self, level: int) -> None:
        """What does not change between the passes of a level."""
        layout, sampling = self.layout, self.sampling
        start, stop = layout.starts[level : level + 2]
        self.at, self.head = sampling.at(level), cast(LevelHead, self.model.heads[level])
        self.strength = strengths(sampling, level, *(slot - layout.window for slot in (start, stop, layout.length - 1)))
        if isinstance(self.strength, torch.Tensor):
            self.strength = self.strength[:, None].to(self.device)
        self.none_chosen = torch.zeros(0, dtype=torch.long, device=self.device)
        self.first_ids = layout.vocab.ids(level, self.none_chosen.new_zeros(len(self.head.outputs)))
        if self.decoder:
            self.decoder.begin(level, self.rows[: len(self.seeds)])

    def _drop_the_guided_half(self, level: int) -> None:
        if self.guided and not self.sampling.guides(level, self.levels):
            self.guided = False
            self.rows = self.rows[: len(self.seeds)]
            self.cache.keep(len(self.seeds))

    def _guess(self, level: int, first: int, last: int, noise: list[torch.Tensor]) -> None:
        """Fill slots with guesses: the code of the same cell one latent frame before; in the first frame what the noise alone
        would draw."""
        start, grid, kinds = self.layout.starts[level], self.layout.grids[level], len(noise)
        frame, halves = grid.h * grid.w, len(self.rows) // len(self.seeds)
        stop = min(last, start + frame)
        if first < stop:
            alone = torch.stack([table[:, first - start : stop - start].argmax(-1) for table in noise], dim=-1)
            self.rows[:, first:stop, :kinds] = self.layout.vocab.ids(level, alone).repeat(halves, 1, 1)
        for slot in range(max(first, start + frame), last, frame):
            count = min(frame, last - slot)
            self.rows[:, slot : slot + count] = self.rows[:, slot - frame : slot - frame + count]

    def _draw_window(self, level: int, slot: int, last: int, noise: list[torch.Tensor]) -> torch.Tensor:
        """Ids (B, n, sub-codes) of slots slot … last - 1, each given what now lies in the slots before it."""
        start = self.layout.starts[level]
        hidden = self._hidden(last - 1)[:, slot - last :]  # (halves B, n, D)
        return self._drawn(hidden, slice(slot - start, last - start), noise)

    def _drawn(self, hidden: torch.Tensor, cells: slice | torch.Tensor, noise: list[torch.Tensor]) -> torch.Tensor:
        """The states (halves B, n, D) that predict n cells of the level begun → ids (B, n, sub-codes) drawn for them."""
        head, at, strength = self.head, self.at, self.strength
        if at.guidance == 1:
            hidden = hidden[: len(self.seeds)]
        hidden = hidden.to(cast(torch.Tensor, head.outputs[0].weight).dtype)
        if isinstance(strength, torch.Tensor):
            strength = strength[cells]
        chosen: list[torch.Tensor] = []  # (B, n) each
        for table in noise:
            before = self._all_halves(torch.stack(chosen, dim=-1), len(hidden)) if chosen else self.none_chosen
            logits = head.logits(hidden, before).float()
            if at.guidance != 1:
                conditional, unconditional = logits.chunk(2)
                logits = guide(conditional, unconditional, strength, self.sampling.apg)
            if at.temperature == 0:
                chosen.append(logits.argmax(-1))
            else:
                chosen.append(race(restrict(logits, at), table[:, cells]))
        return torch.stack(chosen, dim=-1) + self.first_ids

    def _all_halves(self, of_videos: torch.Tensor, rows: int) -> torch.Tensor:
        """(B, …), which both halves have alike → (rows, …)."""
        return torch.cat([of_videos] * (rows // len(of_videos)))  # `repeat` takes ten times as long on a CPU

    def _hidden(self, stop: int) -> torch.Tensor:
        """Hidden states (halves B, n, D) of the slots from the cache's end to `stop` - 1."""
        seen = self.cache.seen
        if self.decoder is None or seen < self.decoder.first:  # a prompt and given levels are many slots: nothing to save
            return self.model.hidden(self.rows[:, seen:stop], seen, self.cache, self.rows)
        return self.decoder.hidden(stop)

    def _accept(self, level: int, slot: int, found: torch.Tensor) -> int:
        """Write the draws; returns how many of them are final in every row, and takes the cache back behind the others."""
        count, kinds = found.shape[1:]
        span, gained = slice(slot, slot + count), 1
        if count > 1:
            wrong = (self.rows[: len(found), span, :kinds] != found).any(-1).any(0).nonzero()
            gained = min(count, int(wrong[0]) + 1) if len(wrong) else count
        self.rows[:, span, :kinds] = self._all_halves(found, len(self.rows))
        self.cache.rewind(slot + gained - 1)
        return gained
