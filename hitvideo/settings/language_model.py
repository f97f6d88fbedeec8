"""The sections `llm` and `text`: the language model's shape, and its text tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from hitvideo.config import Depth, Section, Size
from hitvideo.errors import ConfigError
from hitvideo.settings.paths import Expanded

Rope: TypeAlias = Literal["3d", "3d-unaligned", "1d"]


class LLMSection(Section):
    """The decoder-only transformer."""

    layers: Depth
    """Transformer blocks."""
    width: Size
    """Width of the residual stream, D."""
    heads: Size
    """Query heads; they must divide `width`."""
    kv_heads: Size
    """Key/value heads of grouped-query attention; equal to `heads` for plain multi-head attention."""
    hidden: Size
    """Width inside SwiGLU."""
    rope_axes: tuple[Size, Size, Size]
    """Dimensions of a head that rotate with t, h and w: even numbers that sum to width / heads."""
    rope: Rope = "3d"
    """Where RoPE places a cell. 3d: at its centre in the finest level's cells; 3d-unaligned: at its number in its own level's
    grid, so that a cell and the coarser one above it are apart; 1d: all dimensions of a head turn with the slot's number."""
    rope_theta: float = Field(10000.0, gt=1)
    """Base of RoPE's frequencies."""
    norm_eps: float = Field(1e-5, gt=0)
    """Epsilon of every RMSNorm."""
    ancestors: bool = False
    """Tell a slot what is drawn where the cell it predicts will be: the ids of the coarser cells that cover that cell are
    embedded once more, and added to the slot's input. Without it, attention has to find them."""
    groups: Annotated[tuple[tuple[Size, Size, Size] | None, ...], Field(min_length=1)] | None = None
    """Cells that can be drawn together (`hitvideo generate --plan grouped`): for each level, coarsest first, the cells t, h, w
    of a region. A pass draws one cell of every region, so the level takes as many passes as a region has cells. null for a
    level: one cell a pass; null for all: the model learns raster order alone. Regions must divide the level's grid."""
    qk_norm: bool = False
    """Apply RMSNorm to queries and keys, per head."""
    attention: Literal["auto", "flash", "sdpa"] = "auto"
    """Attention kernel. sdpa: PyTorch's own; flash: the newest FlashAttention that is installed; auto: the fastest that can run
    here, of FlashAttention 3 or 4, cuDNN's (Hopper and later), flash-attn 2 and PyTorch's own, in this order."""

    @model_validator(mode="after")
    def _check(self) -> LLMSection:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        if sum(self.rope_axes) != self.head_dim or any(axis % 2 for axis in self.rope_axes):
            raise ConfigError(f"rope_axes {list(self.rope_axes)} must be even and sum to the head's {self.head_dim} dimensions")
        return self

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def turned_axes(self) -> tuple[int, ...]:
        """Dimensions of a head that rotate with each axis of a position."""
        return (self.head_dim,) if self.rope == "1d" else self.rope_axes


class TextSection(Section):
    """The text tokenizer, and the part of a row that holds the caption."""

    model: Expanded | None = None
    """A sentencepiece `.model`; null: the run trains one on its dataset's captions and keeps it in the run directory."""
    vocab_size: int = Field(32000, ge=261, le=1 << 24)
    """Ids reserved for text; the text tokenizer may use fewer."""
    window: Size = Field(128, ge=2)
    """Slots for BOS, caption and EOS; longer captions are cut."""
