"""The unit of the offline job: one video shard → one token shard, as a plain function.

Every sample of the video shard ends as a sample of the token shard or as a reject with a reason; the counts in the
receipt add up. Nothing depends on which task does a shard, on what was done before, or on time: doing it again gives the
same bytes.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hitvideo import config
from hitvideo.data.token_format import TokenSample, commit, shard_paths
from hitvideo.data.video_shards import VideoMember, VideoSample, read, scan
from hitvideo.hierarchy import Clip
from hitvideo.schema import TokenizeRun
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer
from hitvideo.video import Frames, VideoError, decode_clip, to_unit

log = logging.getLogger(__name__)
_LONGEST_KEY = 80  # with its extension a key has to fit the 100 bytes of a plain tar header


@dataclass(frozen=True)
class Encoder:
    """A video tokenizer with everything that decides its codes."""

    tokenizer: VideoTokenizer
    clip: Clip
    fingerprint: str
    """Of the tokenizer's files."""
    settings: TokenizeRun

    @property
    def contract(self) -> str:
        """Fingerprint of all that decides a token shard's content: tokenizer, clip and limits."""
        return config.fingerprint(self.fingerprint, self.clip, self.settings.limits)

    def __call__(self, clips: list[Frames]) -> list[list[np.ndarray[Any, Any]]]:
        """uint8 clips (T, H, W, 3) → the codes of each."""
        device = next(self.tokenizer.parameters()).device
        video = torch.from_numpy(np.stack([to_unit(clip) for clip in clips])).to(device)
        per_level = [indices.cpu().numpy() for indices in self.tokenizer.encode(video)]
        return [[indices[row] for indices in per_level] for row in range(len(clips))]


def tokenize_shard(shard: Path, out: Path, encoder: Encoder, progress: Callable[[int], object]) -> bool:
    """Tokenize one video shard and commit it; False where another task committed it first."""
    listing = scan(shard)
    rejects = [{"key": key, "reason": reason, "message": f"{shard.name}: {key}: {reason}"} for key, reason in listing.bad]
    if listing.truncated:
        rejects.append({"key": "", "reason": "truncated", "message": listing.truncated})
    samples: list[TokenSample] = []

    def decoded() -> Iterator[tuple[VideoSample, Frames]]:
        for member in listing.samples:
            try:
                yield _decode(shard, member, encoder)
            except VideoError as error:
                log.warning("rejected: %s", error)
                rejects.append({"key": member.key, "reason": error.reason, "message": str(error)})
            progress(1)

    clips = decoded()
    while batch := list(islice(clips, encoder.settings.data.batch)):
        codes = encoder([frames for _, frames in batch])
        for (sample, _), indices in zip(batch, codes, strict=True):
            known = {name: value for name, value in sample.metadata.items() if name not in ("caption", "grids")}
            metadata = {**known, "fps": encoder.clip.fps}
            samples.append(TokenSample(sample.key, indices, sample.caption, metadata))
    receipt = {
        "stem": shard.stem,
        "source": shard.name,
        "samples_in": len(samples) + len(rejects),
        "samples_out": len(samples),
        "rejected": len(rejects),
        "rejects": sorted(rejects, key=lambda reject: reject["key"]),
        "contract": encoder.contract,
    }
    return commit(out, shard.stem, samples, receipt, attempt=f"{socket.gethostname()}-{os.getpid()}")


def _decode(shard: Path, member: VideoMember, encoder: Encoder) -> tuple[VideoSample, Frames]:
    key = member.key
    if len(key.encode()) > _LONGEST_KEY:
        raise VideoError("long_key", f"{shard.name}: the key {key[:40]}… has {len(key.encode())} bytes, at most {_LONGEST_KEY}")
    sample = read(shard, member)
    name = f"{shard.name}: {key}"
    return sample, decode_clip(sample.video, encoder.clip, encoder.settings.limits, name=name)


def remove_leftovers(out: Path, stem: str) -> None:
    """Temporary files of attempts at a shard that were killed."""
    for path in shard_paths(out, stem):
        for leftover in out.glob(f".{path.name}.*"):
            leftover.unlink(missing_ok=True)
