"""How much do the cells of a run of raster order say of each other, to a trained language model? Prints JSON.

    python -m experiments.grouped_information --run showcase --manifest MANIFEST --rows 64

A cell that is drawn together with those before it in its run is drawn blind to them: from the model's own prediction, averaged
over what they may be. The average is estimated from continuations that the model draws, and its bias, which falls as 1 / draws,
is removed (from all draws twice its value, less the mean of that of either half). What the true cells lose by it, in nats an
index, is the least that a run costs if its cells are drawn in one pass: no training is in it, and no new order.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import cast

import numpy as np
import torch

from hitvideo.data.rows import TokenSource
from hitvideo.data.token_shards import TokenDataset
from hitvideo.generation.generator import load_generator
from hitvideo.llm.cache import KVCache
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.model import LanguageModel

LONGEST = 16
LENGTHS = (2, 4, 8, 16)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--manifest", required=True, help="of clips that the run has not seen")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--draws", type=int, default=32, help="continuations; an even number")
    return parser


@torch.no_grad()
def blind_nats(model: LanguageModel, row: torch.Tensor, first: int, last: int, draws: int, seed: int) -> torch.Tensor:
    """-log p of cells first … last - 1 of one level, each given only the slots before `first`: row (length, S) → (cells,)."""
    level = int(model.layout.levels[first])
    head, vocab = cast(LevelHead, model.heads[level]), model.layout.vocab
    generator = torch.Generator().manual_seed(seed)
    rows = row.expand(draws, -1, -1).clone()
    truth = vocab.sub_codes(level, row[first:last])  # (cells, S)
    cache = _filled(model, row, first - 1, draws)
    found = []
    for slot in range(first, last):
        hidden = model.hidden(rows[:, slot - 1 : slot], slot - 1, cache, rows)[:, 0]  # (draws, D)
        right = torch.zeros(draws, dtype=torch.float64)
        drawn, known = torch.zeros(2, draws, 0, dtype=torch.long)
        for code in truth[slot - first]:
            right += head.logits(hidden, known).double().log_softmax(-1)[:, code]
            logits = head.logits(hidden, drawn)
            uniform = torch.rand(logits.shape, generator=generator).clamp(min=1e-30)
            drawn = torch.cat([drawn, (logits - (-uniform.log()).log()).argmax(-1, keepdim=True)], -1)
            known = torch.cat([known, code.expand(draws, 1)], -1)
        rows[:, slot, : drawn.shape[-1]] = vocab.ids(level, drawn)
        found.append(_without_bias(right))
    return torch.stack(found)


def _filled(model: LanguageModel, row: torch.Tensor, slots: int, draws: int) -> KVCache:
    """A cache for `draws` rows whose first slots are those of `row`, computed once."""
    one, many = model.new_cache(1, slots), model.new_cache(draws)
    model.hidden(row[None, :slots], 0, one)
    nothing = torch.zeros(1, 0, model.section.kv_heads, model.section.head_dim)
    for layer in range(model.section.layers):
        k, v = one.extend(layer, nothing, nothing)  # all that is there
        many.extend(layer, k.expand(draws, -1, -1, -1), v.expand(draws, -1, -1, -1))
    many.advance(slots)
    return many


def _without_bias(logs: torch.Tensor) -> torch.Tensor:
    """-log of the mean of exp(logs), less the bias of so few draws."""
    all_, *halves = (part.logsumexp(0) - math.log(len(part)) for part in (logs, *logs.chunk(2)))
    return -(2 * all_ - torch.stack(halves).mean())


@torch.no_grad()
def known_nats(model: LanguageModel, rows: torch.Tensor) -> torch.Tensor:
    """-log p of every cell given all before it, by slot: rows (B, length, S) → (B, length); slots without a cell get 0."""
    hidden, found = model.hidden(rows[:, :-1]), torch.zeros(rows.shape[:2], dtype=torch.float64)
    for level, head in enumerate(model.heads):
        start, stop = model.layout.starts[level : level + 2]
        codes = model.layout.vocab.sub_codes(level, rows[:, start:stop])
        found[:, start:stop] = cast(LevelHead, head).loss(hidden[:, start - 1 : stop - 1], codes).double()
    return found


def losses(model: LanguageModel, rows: torch.Tensor, draws: int, seed: int = 0) -> list[dict[int, list[float]]]:
    """For each level: length of a run → for each row the nats an index lost by drawing its runs in one pass each."""
    layout, known, found = model.layout, known_nats(model, rows), []
    for level, grid in enumerate(layout.grids):
        start, run = layout.starts[level], min(LONGEST, grid.cells)
        lost: dict[int, list[float]] = {length: [] for length in LENGTHS if length <= run}
        for number, row in enumerate(rows):
            blind = {}
            for first in range(start, start + grid.cells, run):
                blind[first] = blind_nats(model, row, first, first + run, draws, seed) - known[number, first : first + run]
                seed += 1
            for length in lost:
                # The first cells of a longer run are a shorter run. The others begin where no draws were made.
                lost[length].append(torch.stack([cells[:length] for cells in blind.values()]).mean().item())
        found.append(lost)
    return found


def main() -> None:
    words = parser().parse_args()
    generator = load_generator(words.run, torch.device("cpu"))
    dataset = TokenDataset(words.manifest, generator.clip)
    source = TokenSource(dataset, generator.model.layout, generator.text, 0, 0.0)
    indices = np.arange(len(dataset) - words.rows, len(dataset))
    rows, _ = source.rows(indices, indices)
    found: list[dict[int, list[float]]] = []
    for part in rows.split(4):
        for level, lost in enumerate(losses(generator.model, part, words.draws, seed=len(found) * 1000)):
            if level == len(found):
                found.append({length: [] for length in lost})
            for length, values in lost.items():
                found[level][length] += values
        print(json.dumps({"lost": found}), flush=True)  # of the clips so far: the last line is that of all


if __name__ == "__main__":
    main()
