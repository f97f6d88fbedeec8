"""The pipeline from video shards to token shards, which keeps the decoders and the device busy.

Each sample of a video shard becomes either clips in the token shard or a reject with a reason. The receipt's counts add up.
An error that is not a sample's own fails its shard, which then gets no receipt; the other shards go on.
The output bytes do not depend on the task, earlier shards, time or the number of workers, because a batch never mixes
shards: the arithmetic of a shard is always the same.

    shards ─▶ members ─▶ decoding pool, some ahead ─▶ batches by bucket ─▶ device tokenizer ─▶ commit, in its own thread
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hitvideo.data.names import printable
from hitvideo.data.remote import Shard
from hitvideo.data.token_format import Records, commit
from hitvideo.data.token_records import TokenSample
from hitvideo.data.video_shards import ShardListing, VideoMember, scan
from hitvideo.errors import ShardError, VideoError
from hitvideo.files import process_name
from hitvideo.video.pixels import Frames
from tokenize_shards.decoding import DecodingPool, within
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.leases import Flush
from tokenize_shards.recipe import Decoded
from tokenize_shards.rejects import RejectShare
from tokenize_shards.shard_work import ShardWork, guard, receipt_of
from tokenize_shards.source import identity, unchanged

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


class Video(NamedTuple):
    """A video that is being decoded."""

    work: ShardWork
    member: VideoMember
    future: Future[Decoded]


class EndOfShard(NamedTuple):
    """All videos of a shard have been taken."""

    work: ShardWork


class Outcome(NamedTuple):
    """A shard that is committed or, with a failure, is not."""

    shard: Shard
    failure: Exception | None


class Pipeline:
    """Runs shards through the pool and the device tokenizer, and holds the work in progress."""

    def __init__(self, device_tokenizer: DeviceTokenizer, pool: DecodingPool, out: Path, replace: bool = False) -> None:
        """With `replace`, a commit overwrites an existing receipt."""
        self.device_tokenizer, self.pool, self.out, self.replace = device_tokenizer, pool, out, replace
        settings = device_tokenizer.settings
        self.batch, self.read_seconds = settings.data.batch, settings.data.read_seconds
        self.ahead = max(1, 2 * self.batch // settings.data.clips_per_video) + pool.workers
        self.share = RejectShare(settings.task.most_rejected)
        self.stages = Stages()

    def __call__(self, shards: Iterable[Shard | Flush], progress: Callable[[int], object]) -> Iterator[Outcome]:
        """Tokenize shards and yield each one once it is done with. A Flush in `shards` ends all work in progress.

        Calls `progress` with the bytes of video done since the last call. Raises TooManyRejectsError.
        """
        with ThreadPoolExecutor(1, "commit") as writer:
            commits: deque[Future[Outcome]] = deque()
            for event in self._decoding(shards):
                if isinstance(event, Video):
                    if not event.work.failure:
                        guard(event.work, partial(self._take, event.work, event.member, event.future))
                    progress(event.member.video.size)
                elif isinstance(event, EndOfShard):
                    if not event.work.failure:
                        guard(event.work, partial(self._finish, event.work))
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
                if work.failure:
                    break
                waiting.append(Video(work, member, self.pool.submit(shard, member, self.device_tokenizer.recipe)))
                while len(waiting) > self.ahead:
                    yield waiting.popleft()
            waiting.append(EndOfShard(work))
        yield from waiting

    def _open(self, shard: Shard) -> ShardWork:
        """List a shard. A file that is not a tar is one reject; a store that does not answer is a failure."""
        work = ShardWork(shard, ShardListing(shard), {}, Records(self.out))

        def listed() -> None:
            work.source = identity(shard)
            try:
                work.listing = scan(shard)
            except ShardError as error:
                work.listing = ShardListing(shard, truncated=str(error))

        guard(work, lambda: within(self.read_seconds, f"{shard}: listing it", listed))
        for key, reason in work.listing.bad:
            work.reject(key, reason, f"{shard.name}: {printable(key)}: {reason}")
        if work.listing.truncated:
            work.reject("", "truncated", work.listing.truncated)
        self._count(work, len(work.rejects), 0)
        return work

    def _count(self, work: ShardWork, videos: int, before: int) -> None:
        """Count videos for the share of rejects, and those rejects of a shard that come after the first `before`."""
        new = work.rejects[before:]
        self.share.take(videos, Counter(reject["reason"] for reject in new), new[0]["message"] if new else "")
        self.share.check()

    def _take(self, work: ShardWork, member: VideoMember, future: Future[Decoded]) -> None:
        start, before = time.perf_counter(), len(work.rejects)
        try:
            decoded = future.result()
        except VideoError as error:
            log.warning("rejected: %s", error)
            work.reject(member.key, error.reason, str(error))
            return
        finally:
            self.stages.wait += time.perf_counter() - start
            self._count(work, 1, before)
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
                work.records.add(TokenSample(*known, sample.bucket))
            work.encoded = None

    def _finish(self, work: ShardWork) -> None:
        for bucket in sorted(work.batches):
            if work.batches[bucket]:
                self._encode(work, work.batches[bucket])
        start = time.perf_counter()
        self._fetch(work)
        self.stages.encode += time.perf_counter() - start
        self.stages.rejects += len(work.rejects)

    def _commit(self, work: ShardWork) -> Outcome:
        start = time.perf_counter()

        def committed() -> None:
            unchanged(work.shard, work.source)
            receipt = receipt_of(work, self.device_tokenizer.contract)
            attempt = f"{process_name()}-{uuid.uuid4().hex[:8]}"  # containers may share host name and process number
            commit(self.out, work.shard.stem, work.records, receipt, attempt, self.replace)

        if not work.failure:
            guard(work, committed)
        work.records.close()
        self.stages.commit += time.perf_counter() - start
        return Outcome(work.shard, work.failure)


def tokenize_shard(shard: Shard, out: Path, device_tokenizer: DeviceTokenizer, pool: DecodingPool) -> None:
    """Tokenize one video shard and commit it, unless another task committed it first. Raises what made it fail."""
    for outcome in Pipeline(device_tokenizer, pool, out)([shard], lambda _: None):
        if outcome.failure:
            raise outcome.failure
