"""How clips are cut out of videos, as a value that decoding workers get and that is part of a token shard's contract."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hitvideo.data.remote import Shard
from hitvideo.data.video_shards import VideoMember, VideoSample, read
from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import Fit, decode_clips, upright_aspect
from hitvideo.video.pixels import Frames

# With its extension a key has to fit the 100 bytes of a plain tar header.
LONGEST_KEY = 80


@dataclass(frozen=True)
class Recipe:
    """The clip shapes, and how a video becomes clips of one of them."""

    buckets: tuple[ClipShape, ...]
    fit: Fit
    clips_per_video: int
    stride: float | None
    """Seconds between the starts of two clips; None: the clip's length."""
    limits: LimitsSection

    def described(self) -> dict[str, Any]:
        """The part of the settings that decides a token shard's content."""
        clips = {str(number): clip.model_dump(mode="json") for number, clip in enumerate(self.buckets)}
        cut = {"fit": self.fit, "clips_per_video": self.clips_per_video, "stride": self.stride}
        return {"buckets": clips, **cut, "limits": self.limits.model_dump(mode="json")}


@dataclass(frozen=True)
class Decoded:
    """The clips of one video, all of one bucket."""

    caption: str
    metadata: dict[str, Any]
    bucket: int
    clips: Frames  # (n, T, H, W, 3)


def decode_member(shard: Shard, member: VideoMember, recipe: Recipe) -> Decoded:
    """One sample of a video shard as clips. Raises VideoError for a bad sample, ShardError if the tar has changed."""
    name = f"{shard.name}: {member.key}"
    if len(member.key.encode()) > LONGEST_KEY:
        found = f"the key {member.key[:40]}… has {len(member.key.encode())} bytes, at most {LONGEST_KEY}"
        raise VideoError("long_key", f"{shard.name}: {found}")
    sample = read(shard, member)
    bucket, clips = _cut(sample, recipe, name)
    known = {key: value for key, value in sample.metadata.items() if key not in ("caption", "grids")}
    return Decoded(sample.caption, {**known, "fps": recipe.buckets[bucket].fps}, bucket, clips)


def _cut(sample: VideoSample, recipe: Recipe, name: str) -> tuple[int, Frames]:
    """Clips of the first bucket that the video fills; buckets of nearest shape first, among equals the longest first."""
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
    """Sort key of buckets for a picture whose width : height is `aspect`."""

    def key(number: int) -> tuple[float, float]:
        clip = buckets[number]
        return round(abs(math.log(aspect * clip.height / clip.width)), 6), -clip.frames / clip.fps

    return key
