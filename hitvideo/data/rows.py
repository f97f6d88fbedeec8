"""The source of training rows: captions and codes of token shards as ids in the layout of a row."""

from __future__ import annotations

import json

import numpy as np
import torch

from hitvideo.data.blend import Blend
from hitvideo.data.loader import Damage, Ordering
from hitvideo.data.order import NEWEST_ORDER, uniform
from hitvideo.data.token_shards import Int64s, TokenDataset
from hitvideo.errors import ConfigError, ShardError, short
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
        check_levels(dataset, layout)
        if text.size > layout.vocab.text_size:
            raise ConfigError(f"text.vocab_size {layout.vocab.text_size} is below the text tokenizer's {text.size} pieces")
        self.dataset = dataset
        self.layout = layout
        self.text = text
        self.seed = seed
        self.caption_dropout = caption_dropout

    def __len__(self) -> int:
        return len(self.dataset)

    def order(self, samples: range, seed: int, read_together: int, version: int = NEWEST_ORDER) -> Ordering:
        """The dataset's order: draw → place in `samples`."""
        return self.dataset.order(samples, seed, read_together, version)

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
        text_ids: list[list[int]] = []
        for row, (drop, caption, coin) in enumerate(zip(dropped, found.captions, coins, strict=True)):
            try:
                chosen = choose_caption(caption, float(coin))  # also if it is dropped: damage does not depend on the draw
                text_ids.append(self.text.encode("" if drop else chosen))
            except (ValueError, TypeError, RecursionError) as error:
                where = self.dataset.place(int(indices[row]))
                found.damaged[row] = ShardError(f"{where}: its caption cannot be read: {short(error)}")
                text_ids.append([])
        try:
            rows = self.layout.join_rows(text_ids, found.codes)
        except ValueError:  # codes that match their checksum and are wrong all the same: find the rows
            for row in range(len(found.codes)):
                try:
                    self.layout.join_rows([[]], found.codes[row : row + 1])
                except ValueError as error:
                    found.damaged[row] = ShardError(f"{self.dataset.place(int(indices[row]))}: {error}")
                    found.codes[row] = 0
            rows = self.layout.join_rows(text_ids, found.codes)
        return torch.from_numpy(rows), found.damaged

    def cut_captions(self, most: int = 2048) -> tuple[int, int]:
        """How many of at most `most` captions lose their end to the row's text window, and how many were looked at."""
        lengths = [len(self.text.encode(caption)) + 2 for caption in self.dataset.captions(most, self.seed)]  # BOS, EOS
        return sum(length > self.layout.window for length in lengths), len(lengths)


def check_levels(dataset: TokenDataset | Blend, layout: SequenceLayout) -> None:
    """Raise ConfigError if the dataset has other grids or bits than the layout."""
    bits = [level["num_bits"] for level in dataset.manifest["hierarchy"]["levels"]]
    found = [(tuple(grid), b) for grid, b in zip(dataset.grids, bits, strict=True)]
    wanted = [(tuple(g), sum(b.bits for b in row)) for g, row in zip(layout.grids, layout.vocab.ranges, strict=True)]
    if found != wanted:
        raise ConfigError(
            f"data.manifest {dataset.path} has levels of (grid, bits) {found}, the run's hierarchy and clip give "
            f"{wanted}; use the hierarchy and clip of its video tokenizer"
        )


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
