"""The sections `data` and `task` of tokenize_shards: what is tokenized and how, and which part this process does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hitvideo.config import Count, Fraction, Positive, Seconds, Section
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.paths import Expanded, OutputPath


class TokenizeDataSection(Section):
    """Video shards in, token shards out."""

    video_shards: Expanded | None = None
    """A folder of video shards, a glob of .tar files, or a URL of either (s3://…, file://…)."""
    out: OutputPath | None = None
    """Directory for token shards, receipts and manifest.json; any file system with hard links."""
    buckets: tuple[ClipShape, ...] = ()
    """Clip shapes. Each video goes to the bucket of nearest aspect ratio; among equals, to the longest it can fill. A bucket
    of one frame takes pictures. Empty: the video tokenizer's own clip."""
    fit: Literal["cover", "contain", "stretch"] = "cover"
    """How a frame fills a clip of another shape. cover: crop at the centre; contain: black bars; stretch: distort."""
    clips_per_video: Positive = 1
    """Most clips that are cut from one video."""
    clip_stride: Seconds | None = None
    """Seconds between the starts of a video's clips, at least a clip's length; null: exactly a clip's length."""
    batch: Positive = 16
    """Clips encoded at a time."""
    chunk: Positive | None = None
    """Frames that pass through the encoder at a time, for long clips; null: all."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the encoder; auto: bf16 on a GPU, fp32 on a CPU."""
    compile: bool = False
    """Compile the encoder with torch.compile: slower to start, faster on a GPU."""
    agreement: Fraction = 0.9
    """Smallest share of a golden clip's bits that must equal fp32 on the CPU; with less the job refuses to start."""
    workers: Count | None = None
    """Decoding processes; null: one less than the cores, at least one; 0: decode in this process, without limits."""
    decode_seconds: Seconds = 120.0
    """Most CPU seconds to decode one video; after that its worker is killed and the video rejected."""
    read_seconds: Seconds = 900.0
    """Longest wait for the store, to list a shard or read one video of it; after that the shard fails, and is tried again."""
    decode_gib: float = Field(4.0, gt=0, le=1 << 20)
    """Most memory of one decoding process."""


class TaskSection(Section):
    """Which share of the shards this process does first."""

    index: Count | None = None
    """This task's number, from 0; null: from SLURM_ARRAY_TASK_ID, else 0."""
    count: Positive | None = None
    """Number of tasks; null: SLURM_ARRAY_TASK_COUNT, else 1."""
    lease_seconds: Seconds = 120.0
    """A task silent for this long counts as dead; others take over its shards."""
    attempts: Positive = 3
    """How often a task tries a shard that fails: a store that does not answer, a worker that cannot start, a full disk."""
    retry_seconds: float = Field(10.0, ge=0)
    """Pause before a failed shard is tried again; it doubles each time."""
    most_rejected: Fraction = 0.5
    """Largest share of videos that may be rejected; with more the job ends, because its settings are likely to be wrong."""
    engine: Literal["tasks", "ray"] = "tasks"
    """What distributes the shards. tasks: leases in the file system; ray: a Ray cluster (`--engine ray`)."""
    retry_rejects: bool = False
    """Do this task's shards that have rejects again (`--retry-rejects`)."""
