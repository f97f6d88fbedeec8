"""The source of training clips: videos of video shards, decoded to tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch

from hitvideo import config
from hitvideo.data.order import uniform
from hitvideo.data.remote import Shard, byte_size
from hitvideo.data.video_shards import VideoMember, read, scan
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip, probe
from hitvideo.video.pixels import to_unit

_START_SALT = 0x57A7


class ClipSource:
    """Random access to the clips of video shards; a clip is decoded when it is requested."""

    def __init__(
        self,
        shards: Sequence[Shard],
        clip: ClipShape,
        limits: LimitsSection,
        random_start: bool = False,
        clip_at: Callable[[int], ClipShape] | None = None,
    ) -> None:
        """`random_start`: cut anywhere in the video, as a function of the draw; else at its start.

        `clip_at`: draw → the shape to cut at that draw; by default always `clip`.
        """
        self.clip = clip
        self.limits = limits
        self.random_start = random_start
        self.clip_at = clip_at
        self._members: list[tuple[Shard, VideoMember]] = [(shard, member) for shard in shards for member in scan(shard).samples]
        self.digest = config.fingerprint({shard.name: byte_size(shard) for shard in shards})

    def still(self) -> ClipSource:
        """The same videos, all cut at their start in the shape `clip`, for validation."""
        source = copy.copy(self)
        source.random_start, source.clip_at = False, None
        return source

    def __len__(self) -> int:
        return len(self._members)

    def tensor(self, index: int, draw: int) -> torch.Tensor:
        """One clip (3, T, H, W) in [-1, 1]. Raises ShardError or VideoError if it cannot be read."""
        shard, member = self._members[index]
        sample = read(shard, member)
        name = f"{shard}:{sample.key}"
        start = self._start(sample.video, draw, name) if self.random_start else 0.0
        clip = self.clip_at(draw) if self.clip_at else self.clip
        return torch.from_numpy(to_unit(decode_clip(sample.video, clip, self.limits, start, name)))

    def _start(self, video: bytes, draw: int, name: str) -> float:
        """Seconds at which to cut, so that the clip ends within the duration in the header; 0 if the header has none."""
        spare = (probe(video, name).seconds or 0.0) - (self.clip.frames + 1) / self.clip.fps
        return max(0.0, spare) * float(uniform(np.array([draw], dtype=np.uint64), _START_SALT)[0])
