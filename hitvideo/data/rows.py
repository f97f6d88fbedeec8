"""The source of training rows: captions and codes of token shards as ids in the layout of a row."""

from __future__ import annotations

import json

import numpy as np
import torch

from hitvideo.data.blend import Blend
from hitvideo.data.loader import Damage, Ordering
from hitvideo.data.order import uniform
from hitvideo.data.token_shards import Int64s, TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer

_DROPOUT_SALT = 0x5EED
_CAPTION_SALT = 0xCA97


class TokenSource:
    """Rows of ids from token shards. Captions are tokenized here, and a share of them is replaced by the empty one."""

    def __init__(
        self, dataset: TokenDataset | Blend, layout: SequenceLayout, text: TextTokenizer, seed: int, caption_dropout: float
    ) -> None:
        """Raises ConfigError if the dataset has other grids or bits than the layout, or `text` more pieces than it has ids."""
        bits = [level["num_bits"] for level in dataset.manifest["hierarchy"]["levels"]]
        found = [(tuple(grid), b) for grid, b in zip(dataset.grids, bits, strict=True)]
        wanted = [(tuple(g), sum(b.bits for b in row)) for g, row in zip(layout.grids, layout.vocab.ranges, strict=True)]
        if found != wanted:
            raise ConfigError(
                f"data.manifest {dataset.path} has levels of (grid, bits) {found}, the run's hierarchy and clip give "
                f"{wanted}; use the hierarchy and clip of its video tokenizer"
            )
        if text.size > layout.vocab.text_size:
            raise ConfigError(f"text.vocab_size {layout.vocab.text_size} is below the text tokenizer's {text.size} pieces")
        self.dataset = dataset
        self.layout = layout
        self.text = text
        self.seed = seed
        self.caption_dropout = caption_dropout

    def __len__(self) -> int:
        return len(self.dataset)

    def order(self, samples: range, seed: int, read_together: int) -> Ordering:
        """The dataset's order: draw → place in `samples`."""
        return self.dataset.order(samples, seed, read_together)

    def tensor(self, index: int, draw: int) -> torch.Tensor:
        """One row (length, width). Raises ShardError if the sample is damaged."""
        rows, damaged = self.rows(np.array([index]), np.array([draw]))
        if damaged:
            raise damaged[0]
        return rows[0]

    def rows(self, indices: Int64s, draws: Int64s) -> tuple[torch.Tensor, Damage]:
        """Samples (n,) at draws (n,) → rows (n, length, width), and the damaged ones among them."""
        found = self.dataset.read(indices)
        values = np.asarray(draws, dtype=np.uint64)
        dropped = uniform(values, self.seed ^ _DROPOUT_SALT) < self.caption_dropout
        coins = uniform(values, self.seed ^ _CAPTION_SALT)
        chosen = [
            "" if drop else choose_caption(caption, float(coin))
            for drop, caption, coin in zip(dropped, found.captions, coins, strict=True)
        ]
        text_ids = [self.text.encode(caption) for caption in chosen]
        return torch.from_numpy(self.layout.join_rows(text_ids, found.codes)), found.damaged


def choose_caption(text: bytes, coin: float) -> str:
    """A sample's caption from its JSON: a text, or one of [text, weight] pairs chosen by `coin` in [0, 1)."""
    if text[:1] == b'"' and b"\\" not in text:  # a text without escapes: no need to parse
        return text[1:-1].decode()
    found = json.loads(text)
    if isinstance(found, str):
        return found
    coin *= sum(weight for _, weight in found)
    for caption, weight in found:
        coin -= weight
        if coin < 0:
            return str(caption)
    return str(found[-1][0])
