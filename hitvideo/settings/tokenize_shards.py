"""The typed sections of the offline job alone. What a key means is the string under it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hitvideo.config import Fraction, Positive, Section
from hitvideo.hierarchy import ClipShape


class TokenizeDataSection(Section):
    """Video shards in, token shards out."""

    video_shards: str | None = None
    """A folder of video shards, a glob of .tar files, or a URL of either (s3://…, file://…)."""
    out: str | None = None
    """Directory for token shards, receipts and manifest.json; any file system with hard links."""
    buckets: tuple[ClipShape, ...] = ()
    """Clip shapes; a video goes to the one nearest to its own shape, of those to the longest that it fills. A shape of one
    frame takes pictures. Empty: the video tokenizer's own clip."""
    fit: Literal["cover", "contain", "stretch"] = "cover"
    """How a picture of another shape fills a clip: cropped at the centre, with black bars, or out of proportion."""
    clips_per_video: Positive = 1
    """At most so many clips are cut out of one video, in one pass."""
    clip_stride: float | None = Field(None, gt=0)
    """Seconds from a clip's start to the next one's, at least a clip's length; null: one follows right after the other."""
    batch: Positive = 16
    """Clips encoded at a time."""
    chunk: Positive | None = None
    """Frames that pass through the encoder at a time, for long clips; null: all."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the encoder; auto: bf16 on a GPU, fp32 on a CPU."""
    compile: bool = False
    """torch.compile the encoder: slower to start, faster on a GPU."""
    agreement: Fraction = 0.9
    """Least share of a golden clip's bits that must equal fp32 on the CPU; below, the device or its libraries are wrong."""
    workers: int | None = Field(None, ge=0)
    """Decoding processes; null: one less than there are cores, at least one. 0: decode in this process, without limits."""
    decode_seconds: float = Field(120.0, gt=0)
    """Longest time for one video, before its worker is ended and the video rejected."""
    decode_gib: float = Field(4.0, gt=0)
    """Most memory of one worker."""


class TaskSection(Section):
    """Which part of the job this process does first; null: SLURM_ARRAY_TASK_ID / _COUNT, else all of it."""

    index: int | None = Field(None, ge=0)
    count: Positive | None = None
    lease_seconds: float = Field(120.0, gt=0)
    """A task that has not been heard of for so long is taken for dead, and others do its shards."""
    engine: Literal["tasks", "ray"] = "tasks"
    """ray: map the shards over a Ray cluster instead (`--engine ray`)."""
    retry_rejects: bool = False
    """Do the shards with rejects again, this task's own ones (`--retry-rejects`)."""
