"""The id space of the language model: the text pieces, then one block per level and sub-code. No torch.

    | specials | text pieces | level 0 sub 0 | level 0 sub 1 | … | level N sub S |
      0 … 4      … text_size                                                  size

The specials are sentencepiece control symbols, so no caption can spell one. Only this file converts indices (one
level's integers, 0 … 2**num_bits - 1) to ids and back. A slot of a row holds one id for each sub-code, `width` columns
in all; columns that a slot does not use hold NONE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hitvideo.hierarchy import Hierarchy

if TYPE_CHECKING:
    import numpy as np

PAD, UNK, BOS, EOS, EOV = range(5)
NONE = PAD  # an unused sub-code column; the embedding leaves it out
EOV_PIECE = "<eov>"


class Block(NamedTuple):
    """The ids of one sub-code of one level: offset … offset + size - 1."""

    offset: int
    bits: int

    @property
    def size(self) -> int:
        return 1 << self.bits


class Vocab:
    """Maps indices to ids and back; a pure function of the text vocabulary's size and the hierarchy."""

    def __init__(self, text_size: int, hierarchy: Hierarchy) -> None:
        self.text_size = text_size
        self.blocks: list[list[Block]] = []
        offset = text_size
        for level in hierarchy.levels:
            row = []
            for bits in level.sub_codes:
                row.append(Block(offset, bits))
                offset += 1 << bits
            self.blocks.append(row)
        self.size = offset
        self.width = max(len(row) for row in self.blocks)

    def to_ids(self, level: int, indices: np.ndarray) -> np.ndarray:
        """Indices of a level (…,) → ids (…, width); the most significant sub-code stands first."""
        import numpy as np

        indices = np.asarray(indices, dtype=np.int64)
        num_bits = sum(block.bits for block in self.blocks[level])
        if indices.size and (indices.min() < 0 or indices.max() >> num_bits):
            raise ValueError(f"level {level} holds indices below {1 << num_bits}, got {indices.min()}…{indices.max()}")
        ids = np.full((*indices.shape, self.width), NONE, dtype=np.int64)
        shift = num_bits
        for column, block in enumerate(self.blocks[level]):
            shift -= block.bits
            ids[..., column] = block.offset + ((indices >> shift) & (block.size - 1))
        return ids

    def to_indices(self, level: int, ids: np.ndarray) -> np.ndarray:
        """Ids (…, width) of a level → indices (…,). Raises ValueError for an id of another block."""
        import numpy as np

        indices = np.zeros(ids.shape[:-1], dtype=np.int64)
        for column, block in enumerate(self.blocks[level]):
            sub = ids[..., column].astype(np.int64) - block.offset
            if sub.size and (sub.min() < 0 or sub.max() >= block.size):
                raise ValueError(f"an id of sub-code {column} lies outside level {level}'s block {block}")
            indices = (indices << block.bits) | sub
        return indices
