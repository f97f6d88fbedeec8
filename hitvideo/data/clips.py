"""The source of training clips: videos of video shards, decoded to tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from hitvideo import config
from hitvideo.data.clip_index import list_clips
from hitvideo.data.handles import blamed
from hitvideo.data.order import uniform
from hitvideo.data.remote import Ranges, Shard
from hitvideo.errors import ShardError, VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip, probe
from hitvideo.video.pixels import Frames, to_unit

_START_SALT = 0x57A7


class ClipSource:
    """Random access to the clips of video shards; a clip is decoded when it is requested. Captions are not read."""

    def __init__(
        self,
        shards: Sequence[Shard],
        clip: ClipShape,
        limits: LimitsSection,
        random_start: bool = False,
        clip_at: Callable[[int], ClipShape] | None = None,
        index_folder: Path | None = None,
    ) -> None:
        """`random_start`: cut anywhere in the video, as a function of the draw; else at its start.

        `clip_at`: draw → the shape to cut at that draw; by default always `clip`. `index_folder`: where the list of videos is
        kept for the next start. Raises ShardError if a file is not a tar.
        """
        self.clip = clip
        self.limits = limits
        self.random_start = random_start
        self.clip_at = clip_at
        self._shards = shards
        self._index = list_clips(shards, index_folder)
        sizes = zip(shards, self._index.listed, strict=True)
        self.digest = config.fingerprint({shard.name: listed.size for shard, listed in sizes})

    def still(self) -> ClipSource:
        """The same videos, all cut at their start in the shape `clip`, for validation."""
        source = copy.copy(self)
        source.random_start, source.clip_at = False, None
        return source

    def __len__(self) -> int:
        return len(self._index.entries)

    def summary(self) -> str:
        """How many videos there are, and what could not be listed, by reason."""
        return self._index.summary()

    def tensor(self, index: int, draw: int) -> torch.Tensor:
        """One clip (3, T, H, W) in [-1, 1]. Raises ShardError or VideoError if it cannot be read."""
        entry = self._index.entries[index]
        shard = self._shards[int(np.searchsorted(self._index.starts, index, side="right")) - 1]
        name = f"{shard}: {entry['key'].decode(errors='replace')}"
        video = self._video(shard, int(entry["offset"]), int(entry["size"]), name)
        clip = self.clip_at(draw) if self.clip_at else self.clip
        start = self._start(video, draw, name) if self.random_start else 0.0
        return torch.from_numpy(to_unit(self._cut(video, clip, start, name)))

    def _video(self, shard: Shard, offset: int, size: int, name: str) -> bytes:
        if size > self.limits.max_bytes:
            raise VideoError("too_large", f"{name}: {size} bytes; the limit is {self.limits.max_bytes}")
        try:
            with Ranges(shard) as ranges:
                video = ranges.read(offset, offset + size)
        except OSError as error:
            raise blamed(error, name) from error
        if len(video) != size:
            raise ShardError(f"{name}: its bytes are missing; the shard has changed since it was listed")
        return video

    def _cut(self, video: bytes, clip: ClipShape, start: float, name: str) -> Frames:
        """The clip at `start`; at 0 if there is none, as when the duration in the header is not the video's."""
        try:
            return decode_clip(video, clip, self.limits, start, name)
        except VideoError:
            if not start:
                raise
            return decode_clip(video, clip, self.limits, 0.0, name)

    def _start(self, video: bytes, draw: int, name: str) -> float:
        """Seconds at which to cut, so that the clip ends within the duration in the header; 0 if the header has none."""
        spare = (probe(video, name).seconds or 0.0) - (self.clip.frames + 1) / self.clip.fps
        return max(0.0, spare) * float(uniform(np.array([draw], dtype=np.uint64), _START_SALT)[0])
