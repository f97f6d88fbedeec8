"""The id space of the language model: the text pieces, then one range of ids per level and sub-code. No torch.

    | specials | text pieces | level 0 sub 0 | level 0 sub 1 | … | level N sub S |
      0 … 4      … text_size                                                  size

The specials are sentencepiece control symbols, so no caption can spell one. Conversions: indices (one level's integers,
0 … 2**num_bits - 1) ⇄ sub-codes (each counted from 0) ⇄ ids. Offsets are computed here alone; `SequenceLayout.join_rows`
adds those of `cell_tables`. A slot of a row has `width` columns, one id per sub-code; unused columns hold NONE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hitvideo.hierarchy import Hierarchy

if TYPE_CHECKING:
    import numpy as np

ArrayT = TypeVar("ArrayT")  # a numpy array or a torch tensor of integers

PAD, UNK, BOS, EOS, EOV = range(5)
NONE = PAD  # in an unused sub-code column; the embedding ignores it there
EOV_PIECE = "<eov>"


class IdRange(NamedTuple):
    """The ids of one sub-code of one level: offset … offset + size - 1."""

    offset: int
    bits: int

    @property
    def size(self) -> int:
        return 1 << self.bits


class Vocab:
    """The map between indices and ids, given by the text vocabulary's size and the hierarchy."""

    def __init__(self, text_size: int, hierarchy: Hierarchy) -> None:
        self.text_size = text_size
        self.ranges: list[list[IdRange]] = []
        offset = text_size
        for level in hierarchy.levels:
            row = []
            for bits in level.sub_codes:
                row.append(IdRange(offset, bits))
                offset += 1 << bits
            self.ranges.append(row)
        self.size = offset
        self.width = max(len(row) for row in self.ranges)
        self._on_device: dict[Any, Any] = {}

    def num_bits(self, level: int) -> int:
        """Bits of a level's index."""
        return sum(id_range.bits for id_range in self.ranges[level])

    def sub_codes(self, level: int, ids: ArrayT) -> ArrayT:
        """Ids (…, S) of a level's slots → sub-codes counted from 0 (…, sub-codes of the level); numpy or torch."""
        array: Any = ids
        found: ArrayT = array[..., : len(self.ranges[level])] - self._offsets(level, array)
        return found

    def ids(self, level: int, sub_codes: ArrayT) -> ArrayT:
        """The inverse of `sub_codes`: (…, sub-codes of the level), numpy or torch."""
        found: ArrayT = sub_codes + self._offsets(level, sub_codes)
        return found

    def _offsets(self, level: int, like: Any) -> Any:
        offsets = [id_range.offset for id_range in self.ranges[level]]
        if not hasattr(like, "new_tensor"):
            return like.dtype.type(offsets)
        if like.device.type != "cuda":
            return like.new_tensor(offsets)
        key = level, like.dtype, like.device  # a copy to a GPU waits for all that it has to do, so there is one
        if key not in self._on_device:
            self._on_device[key] = like.new_tensor(offsets)
        return self._on_device[key]

    def to_ids(self, level: int, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Indices of a level (…,) → ids (…, width), most significant sub-code first.

        Raises ValueError for an index outside the level's codebook.
        """
        import numpy as np

        indices = np.asarray(indices, dtype=np.int64)
        num_bits = self.num_bits(level)
        if indices.size and (indices.min() < 0 or indices.max() >> num_bits):
            raise ValueError(f"level {level} holds indices below {1 << num_bits}, got {indices.min()}…{indices.max()}")
        shifts, masks, offsets = (table[:, 0].tolist() for table in self.cell_tables([0] * level + [1]))
        columns = [((indices >> shift) & mask) + offset for shift, mask, offset in zip(shifts, masks, offsets, strict=True)]
        return np.stack(columns, axis=-1)

    def to_indices(self, level: int, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Ids (…, width) of a level → indices (…,). Raises ValueError for an id outside the level's ranges."""
        import numpy as np

        indices = np.zeros(ids.shape[:-1], dtype=np.int64)
        sub_codes = self.sub_codes(level, ids.astype(np.int64))
        for column, id_range in enumerate(self.ranges[level]):
            sub = sub_codes[..., column]
            if sub.size and (sub.min() < 0 or sub.max() >= id_range.size):
                raise ValueError(f"an id of sub-code {column} is outside level {level}'s range {id_range}")
            indices = (indices << id_range.bits) | sub
        return indices

    def cell_tables(self, cells: Sequence[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Tables that turn the indices of whole rows into ids: shift, mask and offset, each (width, cells of all levels).

        `cells`: number of cells of each level; a shorter list gives the first levels only. An id is
        ((index >> shift) & mask) + offset; an unused column gives NONE.
        """
        import numpy as np

        tables = np.zeros((3, self.width, len(cells)), dtype=np.int64)
        tables[2] = NONE
        for level in range(len(cells)):
            shift = self.num_bits(level)
            for column, id_range in enumerate(self.ranges[level]):
                shift -= id_range.bits
                tables[:, column, level] = shift, id_range.size - 1, id_range.offset
        shift_mask_offset = np.repeat(tables, cells, axis=2)
        return shift_mask_offset[0], shift_mask_offset[1], shift_mask_offset[2]
