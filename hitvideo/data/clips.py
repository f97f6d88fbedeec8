"""Clips of video shards as tensors: what the video tokenizer trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hitvideo import config
from hitvideo.data.video_shards import VideoMember, read, scan
from hitvideo.hierarchy import Clip
from hitvideo.sections import LimitsSection
from hitvideo.video import decode_clip, to_unit


class ClipSource:
    """Random access to the clips of video shards, decoded when they are asked for."""

    def __init__(self, shards: Sequence[Path], clip: Clip, limits: LimitsSection) -> None:
        self.clip = clip
        self.limits = limits
        self._members: list[tuple[Path, VideoMember]] = [
            (shard, member) for shard in shards for member in scan(shard).samples
        ]

        self.digest = config.fingerprint({shard.name: shard.stat().st_size for shard in shards})

    def __len__(self) -> int:
        return len(self._members)

    def tensor(self, index: int, position: int) -> torch.Tensor:  # → (3, T, H, W) in [-1, 1]
        shard, member = self._members[index]
        sample = read(shard, member)
        return torch.from_numpy(to_unit(decode_clip(sample.video, self.clip, self.limits, name=f"{shard}:{sample.key}")))
