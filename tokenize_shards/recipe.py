"""The recipe for cutting clips from videos. Decoding workers receive it, and a token shard's contract contains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hitvideo.data.remote import Shard
from hitvideo.data.video_shards import VideoMember, VideoSample, read
from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import DECODING, decode_clips, upright_aspect
from hitvideo.video.fitting import Fit
from hitvideo.video.pixels import Frames

# A key plus its extension must fit the 100-byte name field of a plain tar header.
LONGEST_KEY = 80


@dataclass(frozen=True)
class Recipe:
    """The clip shapes (buckets), and how a video becomes clips of one of them."""

    buckets: tuple[ClipShape, ...]
    fit: Fit
    clips_per_video: int
    stride: float | None
    """Seconds between the starts of consecutive clips. None means the length of a clip."""
    limits: LimitsSection

    def described(self) -> dict[str, Any]:
        """Return the settings of the recipe that decide a token shard's content."""
        clips = {str(number): clip.model_dump(mode="json") for number, clip in enumerate(self.buckets)}
        clipping = {"fit": self.fit, "clips_per_video": self.clips_per_video, "stride": self.stride}
        return {"buckets": clips, **clipping, "limits": self.limits.model_dump(mode="json"), "decoding": DECODING}

    def described_clip(self, sample: VideoSample, bucket: int) -> dict[str, Any]:
        """The metadata of a video's clips. A token shard has its own caption and grids."""
        known = {key: value for key, value in sample.metadata.items() if key not in ("caption", "grids")}
        return {**known, "fps": self.buckets[bucket].fps}


@dataclass(frozen=True)
class Decoded:
    """The clips of one video, all from one bucket."""

    caption: str
    metadata: dict[str, Any]
    bucket: int
    clips: Frames  # (n, T, H, W, 3)


def decode_member(shard: Shard, member: VideoMember, recipe: Recipe) -> Decoded:
    """Cut a sample of a video shard into clips. Raises VideoError if the sample is bad; see `fetch` for other errors."""
    return cut(fetch(shard, member, recipe), recipe, f"{shard.name}: {member.key}")


def fetch(shard: Shard, member: VideoMember, recipe: Recipe) -> VideoSample:
    """Read a sample that is within the limits.

    Raises VideoError if the sample is bad, ShardError if the tar has changed, OSError if the store does not give it.
    """
    if len(member.key.encode()) > LONGEST_KEY:
        found = f"the key {member.key[:40]}… has {len(member.key.encode())} bytes; the limit is {LONGEST_KEY}"
        raise VideoError("long_key", f"{shard.name}: {found}")
    if member.video.size > recipe.limits.max_bytes:
        found = f"{member.video.size} bytes; the limit is {recipe.limits.max_bytes}"
        raise VideoError("too_large", f"{shard.name}: {member.key}: {found}")
    return read(shard, member)


def cut(sample: VideoSample, recipe: Recipe, name: str) -> Decoded:
    """Cut a video into clips of the bucket that fits it best.

    Raises VideoError; an error of the decoder's, too, is the video's and must not stop the others. ImportError and OSError are
    the machine's.
    """
    try:
        bucket, clips = _cut(sample, recipe, name)
    except (VideoError, ImportError, OSError):
        raise
    except Exception as error:
        reason = "memory_limit" if isinstance(error, MemoryError) else "crashed"
        raise VideoError(reason, f"{name}: {error!r:.300}") from error
    return Decoded(sample.caption, recipe.described_clip(sample, bucket), bucket, clips)


def _cut(sample: VideoSample, recipe: Recipe, name: str) -> tuple[int, Frames]:
    """Return the bucket that fits the video best and its clips: nearest aspect ratio, then the longest that it can fill."""
    numbers = list(range(len(recipe.buckets)))
    if len(numbers) > 1:
        numbers.sort(key=_distance(recipe.buckets, upright_aspect(sample.video, name, recipe.limits)))
    refused: VideoError | None = None
    for number in numbers:
        clip = recipe.buckets[number]
        stride = recipe.stride or clip.frames / clip.fps
        starts = [k * stride for k in range(recipe.clips_per_video)]
        try:
            return number, decode_clips(sample.video, clip, recipe.limits, starts, name, recipe.fit)
        except VideoError as error:
            if error.reason != "too_short":
                raise
            refused = error
    assert refused
    raise refused


def _distance(buckets: tuple[ClipShape, ...], aspect: float) -> Any:
    """Return a sort key that puts the buckets nearest to the aspect ratio (width / height) first, longest first."""

    def key(number: int) -> tuple[float, float]:
        clip = buckets[number]
        return round(abs(math.log(aspect * clip.height / clip.width)), 6), -clip.frames / clip.fps

    return key
