"""Settings of the data that training reads."""

from __future__ import annotations

from pydantic import Field

from hitvideo.config import Fraction, Positive, Section


class LimitsSection(Section):
    """What a source video may cost before it is rejected."""

    max_pixels: Positive = 7680 * 4320
    """Per frame."""
    max_seconds: float = Field(6 * 3600.0, gt=0)
    """Duration claimed by the container."""
    max_bytes: Positive = 4 << 30


class ClipDataSection(Section):
    """Video shards as the input of tokenizer training."""

    video_shards: str | None = None
    """A folder of video shards, or a glob of .tar files."""
    validation_clips: Positive = 32
    """Held out of training: the last clips of the last shards (whole sources, where shards keep them together)."""
    random_start: bool = False
    """Cut a training clip anywhere in its video; false: always at the video's start, which is cheapest to decode."""
    workers: int = Field(0, ge=0)
    """Decoding threads beside the training one; 0 and 1 are the same."""


class BlendPart(Section):
    """One dataset of several."""

    manifest: str
    weight: float = Field(gt=0)
    """Its share of the samples drawn, beside the others' weights; small datasets are repeated sooner."""


class TokenDataSection(Section):
    """Token shards as the input of pretraining."""

    manifest: str | None = None
    """manifest.json of a finished tokenization."""
    blend: tuple[BlendPart, ...] = ()
    """Several datasets, drawn by weight; instead of `manifest`."""
    workers: int = Field(1, ge=0)
    """Threads that read ahead, per rank; 0: none. They change no batch."""
    validation_samples: int = Field(64, ge=0)
    """Held out of training: the dataset's last samples (whole sources, where shards keep them together)."""
    caption_dropout: Fraction = 0.1
    """Share of captions replaced by the empty one: what guidance needs."""
    read_together: Positive = 256
    """Consecutive samples that are read together: the order permutes these groups, then the samples within each."""
