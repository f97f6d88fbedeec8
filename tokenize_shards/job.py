"""The pipeline from video shards to token shards, which keeps the decoders and the device busy.

Each sample of a video shard becomes either clips in the token shard or a reject with a reason. The receipt's counts add up.
The output bytes do not depend on the task, earlier shards, time or the number of workers, because a batch never mixes
shards: the arithmetic of a shard is always the same.

    shards ─▶ members ─▶ decoding pool, some ahead ─▶ batches by bucket ─▶ device tokenizer ─▶ commit, in its own thread
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from hitvideo.data.remote import Shard
from hitvideo.data.token_format import TokenSample, commit
from hitvideo.data.video_shards import ShardListing, VideoMember, scan
from hitvideo.errors import ShardError, VideoError
from hitvideo.files import process_name
from hitvideo.video.pixels import Frames
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.leases import Flush
from tokenize_shards.recipe import Decoded

log = logging.getLogger(__name__)


@dataclass
class Stages:
    """Seconds that this process spent in each stage, and counts."""

    scan: float = 0.0
    wait: float = 0.0
    """Seconds spent waiting for decoders; if this is large, decoding is the bottleneck."""
    encode: float = 0.0
    commit: float = 0.0
    """Seconds spent by the writing thread."""
    frames: int = 0
    clips: int = 0
    rejects: int = 0


@dataclass
class ShardWork:
    """One shard in progress."""

    shard: Shard
    listing: ShardListing
    samples: list[TokenSample] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    tokenized: int = 0
    """The number of videos that gave clips."""
    keys: set[str] = field(default_factory=set)
    batches: dict[int, list[tuple[TokenSample, Frames]]] = field(default_factory=dict)
    """Clips that are decoded but not yet encoded, by bucket."""
    encoded: tuple[list[TokenSample], list[Tensor]] | None = None
    """The batch whose codes are still on the device."""

    def reject(self, key: str, reason: str, message: str) -> None:
        self.rejects.append({"key": key, "reason": reason, "message": message})


class Video(NamedTuple):
    """A video that is being decoded."""

    work: ShardWork
    member: VideoMember
    future: Future[Decoded]


class EndOfShard(NamedTuple):
    """All videos of a shard have been taken."""

    work: ShardWork


class Pipeline:
    """Runs shards through the pool and the device tokenizer, and holds the work in progress."""

    def __init__(self, device_tokenizer: DeviceTokenizer, pool: DecodingPool, out: Path, replace: bool = False) -> None:
        """With `replace`, a commit overwrites an existing receipt."""
        self.device_tokenizer, self.pool, self.out, self.replace = device_tokenizer, pool, out, replace
        self.batch = device_tokenizer.settings.data.batch
        self.ahead = 2 * self.batch + pool.workers
        self.stages = Stages()

    def __call__(self, shards: Iterable[Shard | Flush], progress: Callable[[int], object]) -> Iterator[Shard]:
        """Tokenize shards and yield each one once it is committed. A Flush in `shards` commits all work in progress.

        Calls `progress` with the bytes of video done since the last call.
        """
        with ThreadPoolExecutor(1, "commit") as writer:
            commits: deque[Future[Shard]] = deque()
            for event in self._decoding(shards):
                if isinstance(event, Video):
                    self._take(event.work, event.member, event.future)
                    progress(event.member.video.size)
                elif isinstance(event, EndOfShard):
                    self._finish(event.work)
                    commits.append(writer.submit(self._commit, event.work))
                    if len(commits) > 1:  # write one shard while the next is encoded
                        yield commits.popleft().result()
                else:
                    while commits:
                        yield commits.popleft().result()
            while commits:
                yield commits.popleft().result()

    def _decoding(self, shards: Iterable[Shard | Flush]) -> Iterator[Video | EndOfShard | Flush]:
        """Yield videos in order, with `ahead` of them already submitted to the pool, plus shard ends and flush requests."""
        waiting: deque[Video | EndOfShard] = deque()
        for shard in shards:
            if isinstance(shard, Flush):
                yield from waiting
                waiting.clear()
                yield shard
                continue
            start = time.perf_counter()
            work = self._open(shard)
            self.stages.scan += time.perf_counter() - start
            for member in work.listing.samples:
                waiting.append(Video(work, member, self.pool.submit(shard, member, self.device_tokenizer.recipe)))
                while len(waiting) > self.ahead:
                    yield waiting.popleft()
            waiting.append(EndOfShard(work))
        yield from waiting

    @staticmethod
    def _open(shard: Shard) -> ShardWork:
        try:
            work = ShardWork(shard, scan(shard))
        except ShardError as error:
            work = ShardWork(shard, ShardListing(shard, truncated=str(error)))
        for key, reason in work.listing.bad:
            work.reject(key, reason, f"{shard.name}: {key}: {reason}")
        if work.listing.truncated:
            work.reject("", "truncated", work.listing.truncated)
        return work

    def _take(self, work: ShardWork, member: VideoMember, future: Future[Decoded]) -> None:
        start = time.perf_counter()
        try:
            decoded = future.result()
        except VideoError as error:
            log.warning("rejected: %s", error)
            work.reject(member.key, error.reason, str(error))
            return
        finally:
            self.stages.wait += time.perf_counter() - start
        several = self.device_tokenizer.recipe.clips_per_video > 1
        keys = [f"{member.key}@{number:03d}" if several else member.key for number in range(len(decoded.clips))]
        if work.keys & set(keys):  # a video's key may equal the key of another video's second clip
            work.reject(member.key, "duplicate", f"{work.shard.name}: {member.key}: another clip already has this key")
            return
        work.keys |= set(keys)
        work.tokenized += 1
        waiting = work.batches.setdefault(decoded.bucket, [])
        for key, frames in zip(keys, decoded.clips, strict=True):
            waiting.append((TokenSample(key, [], decoded.caption, decoded.metadata, decoded.bucket), frames))
            if len(waiting) == self.batch:
                self._encode(work, waiting)

    def _encode(self, work: ShardWork, waiting: list[tuple[TokenSample, Frames]]) -> None:
        """Queue a batch on the device, then fetch the codes of the previous batch."""
        start = time.perf_counter()
        samples, clips = zip(*waiting, strict=True)
        waiting.clear()
        codes = self.device_tokenizer(clips)
        self._fetch(work)
        work.encoded = list(samples), codes
        self.stages.clips += len(clips)
        self.stages.frames += sum(len(frames) for frames in clips)
        self.stages.encode += time.perf_counter() - start

    def _fetch(self, work: ShardWork) -> None:
        if work.encoded:
            samples, codes = work.encoded
            per_level = [indices.cpu().numpy() for indices in codes]
            for row, sample in enumerate(samples):
                known = (sample.key, [indices[row] for indices in per_level], sample.caption, sample.metadata)
                work.samples.append(TokenSample(*known, sample.bucket))
            work.encoded = None

    def _finish(self, work: ShardWork) -> None:
        for bucket in sorted(work.batches):
            if work.batches[bucket]:
                self._encode(work, work.batches[bucket])
        start = time.perf_counter()
        self._fetch(work)
        self.stages.encode += time.perf_counter() - start
        self.stages.rejects += len(work.rejects)

    def _commit(self, work: ShardWork) -> Shard:
        start = time.perf_counter()
        receipt = receipt_of(work, self.device_tokenizer.contract)
        commit(self.out, work.shard.stem, work.samples, receipt, process_name(), self.replace)
        self.stages.commit += time.perf_counter() - start
        return work.shard


def receipt_of(work: ShardWork, contract: str) -> dict[str, Any]:
    """Return the receipt of a shard. Raises ShardError if a sample is lost or duplicated."""
    found = len(work.listing.samples) + len(work.listing.bad) + bool(work.listing.truncated)
    if work.tokenized + len(work.rejects) != found or work.keys != {sample.key for sample in work.samples}:
        raise ShardError(
            f"{work.shard}: samples are lost or duplicated: {found} found, {work.tokenized} tokenized, {len(work.rejects)} "
            f"rejected; {len(work.samples)} clips with {len(work.keys)} keys"
        )
    return {
        "stem": work.shard.stem,
        "source": work.shard.name,
        "videos": found,
        "samples_in": len(work.samples) + len(work.rejects),
        "samples_out": len(work.samples),
        "rejected": len(work.rejects),
        "rejects": sorted(work.rejects, key=lambda reject: (reject["key"], reject["reason"])),
        "contract": contract,
    }


def tokenize_shard(shard: Shard, out: Path, device_tokenizer: DeviceTokenizer, pool: DecodingPool) -> None:
    """Tokenize one video shard and commit it, unless another task committed it first."""
    list(Pipeline(device_tokenizer, pool, out)([shard], lambda _: None))
