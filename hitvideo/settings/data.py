"""The sections `data` and `limits` of training: which clips or tokens a run reads, and which videos are rejected."""

from __future__ import annotations

from pydantic import Field

from hitvideo.config import Count, Fraction, Positive, Seconds, Section
from hitvideo.settings.paths import Expanded


class LimitsSection(Section):
    """The largest source video that is decoded; a larger one is rejected."""

    max_pixels: Positive = 7680 * 4320
    """Most pixels per frame."""
    max_seconds: Seconds = 6 * 3600.0
    """Longest duration of the video stream, by its header; if the header says more, by its packets too."""
    max_bytes: Positive = 4 << 30
    """Largest file."""


class ClipDataSection(Section):
    """Video shards as the input of video-tokenizer training."""

    video_shards: Expanded | None = None
    """A folder of video shards, or a glob of .tar files."""
    validation_clips: Positive = 32
    """Clips held out of training: the last ones of the last shards (whole sources, if shards keep them together)."""
    random_start: bool = False
    """Cut a training clip anywhere in its video; false: always at the video's start, which is cheapest to decode."""
    workers: Count = 0
    """Threads that decode ahead of training, per rank; 0 means 1."""


class BlendPart(Section):
    """One dataset of a blend."""

    manifest: Expanded
    """manifest.json of a finished tokenization."""
    weight: float = Field(gt=0)
    """Share of the draws, relative to the other parts' weights; a small dataset repeats sooner."""


class TokenDataSection(Section):
    """Token shards as the input of language-model training."""

    manifest: Expanded | None = None
    """manifest.json of a finished tokenization."""
    blend: tuple[BlendPart, ...] = ()
    """Several datasets drawn by weight, as a list of {manifest, weight}; used instead of `manifest`."""
    workers: Count = 1
    """Threads that read ahead, per rank; 0: none. Their number does not change any batch."""
    validation_samples: Count = 64
    """Samples held out of training: the dataset's last ones (whole sources, if shards keep them together)."""
    caption_dropout: Fraction = 0.1
    """Share of captions replaced by the empty one, which trains the unconditional model that guidance needs."""
    read_together: Positive = 256
    """Consecutive samples that the data order moves as one: it shuffles these blocks over the whole dataset, and then the
    samples of about 65,536 at a time, so that a reader keeps to a part of the files for a while."""
