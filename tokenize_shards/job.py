"""The unit of the offline job, one video shard → one token shard, and the pipeline that keeps decoders and encoder busy.

Every sample of a video shard ends as clips in the token shard or as a reject with a reason; the counts in the receipt add
up. Nothing depends on which task does a shard, on what was done before, on time, or on the number of workers: doing it
again gives the same bytes. (Batches never mix shards, so that a shard's arithmetic is always the same.)

    shards ─▶ members ─▶ decoding pool, some ahead ─▶ batches by bucket ─▶ device_tokenizer ─▶ commit, in a thread of its own
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hitvideo.data.remote import Shard
from hitvideo.data.token_format import TokenSample, commit
from hitvideo.data.video_shards import ShardListing, VideoMember, scan
from hitvideo.errors import ShardError, VideoError
from hitvideo.files import process_name
from hitvideo.video.pixels import Frames
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.recipe import Decoded

log = logging.getLogger(__name__)


@dataclass
class Stages:
    """Where the time goes, seconds of this process; `decode` is that of the workers, beside it."""

    scan: float = 0.0
    wait: float = 0.0
    """For a decoder: the decoders bind."""
    encode: float = 0.0
    commit: float = 0.0
    """In the thread that writes."""
    frames: int = 0
    clips: int = 0
    rejects: int = 0


@dataclass
class ShardWork:
    """One shard on its way."""

    shard: Shard
    listing: ShardListing
    samples: list[TokenSample] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    tokenized: int = 0
    """Videos that gave clips."""
    keys: set[str] = field(default_factory=set)
    batches: dict[int, list[tuple[TokenSample, Frames]]] = field(default_factory=dict)
    """Bucket → clips that are decoded and not yet encoded."""
    encoded: tuple[list[TokenSample], list[Tensor]] | None = None
    """The batch whose codes are still on the device."""

    def reject(self, key: str, reason: str, message: str) -> None:
        self.rejects.append({"key": key, "reason": reason, "message": message})


class Pipeline:
    """Runs shards through pool and device_tokenizer; its state is what is on its way."""

    def __init__(self, device_tokenizer: DeviceTokenizer, pool: DecodingPool, out: Path, replace: bool = False) -> None:
        """`replace`: commit over a receipt that is there."""
        self.device_tokenizer, self.pool, self.out, self.replace = device_tokenizer, pool, out, replace
        self.batch = device_tokenizer.settings.data.batch
        self.ahead = 2 * self.batch + pool.workers
        self.stages = Stages()

    def __call__(self, shards: Iterable[Shard | None], progress: Callable[[int], object]) -> Iterator[Shard]:
        """Tokenize shards and yield each once it is committed; a None among them asks for all that is on its way.

        `progress` is called with the bytes of video done.
        """
        with ThreadPoolExecutor(1, "commit") as writer:
            commits: deque[Future[Shard]] = deque()
            for work, member, future in self._decoding(shards):
                if work is None:
                    while commits:
                        yield commits.popleft().result()
                elif member is None:
                    self._finish(work)
                    commits.append(writer.submit(self._commit, work))
                    if len(commits) > 1:  # one is being written while the next is encoded
                        yield commits.popleft().result()
                else:
                    assert future
                    self._take(work, member, future)
                    progress(member.video.size)
            while commits:
                yield commits.popleft().result()

    def _decoding(
        self, shards: Iterable[Shard | None]
    ) -> Iterator[tuple[ShardWork | None, VideoMember | None, Future[Decoded] | None]]:
        """Members in order with their futures, so many of them submitted ahead; (work, None, None) ends a shard."""
        waiting: deque[Any] = deque()
        for shard in shards:
            if shard is None:
                yield from waiting
                waiting.clear()
                yield None, None, None
                continue
            start = time.perf_counter()
            work = self._open(shard)
            self.stages.scan += time.perf_counter() - start
            for member in work.listing.samples:
                waiting.append((work, member, self.pool.submit(shard, member, self.device_tokenizer.recipe)))
                while len(waiting) > self.ahead:
                    yield waiting.popleft()
            waiting.append((work, None, None))
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
        if work.keys & set(keys):  # a video may be called as another's second clip
            work.reject(member.key, "duplicate", f"{work.shard.name}: {member.key}: a clip of this name is there already")
            return
        work.keys |= set(keys)
        work.tokenized += 1
        waiting = work.batches.setdefault(decoded.bucket, [])
        for key, frames in zip(keys, decoded.clips, strict=True):
            waiting.append((TokenSample(key, [], decoded.caption, decoded.metadata, decoded.bucket), frames))
            if len(waiting) == self.batch:
                self._encode(work, waiting)

    def _encode(self, work: ShardWork, waiting: list[tuple[TokenSample, Frames]]) -> None:
        """Queue a batch on the device, then fetch the codes of the one before."""
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
    """What became of a shard. Raises ShardError where a sample has vanished or is there twice."""
    found = len(work.listing.samples) + len(work.listing.bad) + bool(work.listing.truncated)
    if work.tokenized + len(work.rejects) != found or work.keys != {sample.key for sample in work.samples}:
        raise ShardError(
            f"{work.shard}: {found} samples found, {work.tokenized} tokenized and {len(work.rejects)} rejected, "
            f"{len(work.samples)} clips of {len(work.keys)} keys: samples are lost or doubled"
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
    """Tokenize one video shard and commit it, unless another task has committed it first."""
    list(Pipeline(device_tokenizer, pool, out)([shard], lambda _: None))
