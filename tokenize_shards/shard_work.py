"""One video shard in progress: its clips and rejects, what made it fail, and its receipt, whose counts add up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hitvideo.data.names import printable
from hitvideo.data.remote import Shard
from hitvideo.data.token_format import Records
from hitvideo.data.token_records import TokenSample
from hitvideo.data.video_shards import ShardListing
from hitvideo.errors import HiTVideoError, ShardError
from hitvideo.video.pixels import Frames
from tokenize_shards.decoding import WorkerError
from tokenize_shards.rejects import TooManyRejectsError

_LONGEST_MESSAGE = 500

log = logging.getLogger(__name__)


@dataclass
class ShardWork:
    """One shard in progress."""

    shard: Shard
    listing: ShardListing
    source: dict[str, Any]
    records: Records
    failure: Exception | None = None
    """Why it gets no receipt now."""
    rejects: list[dict[str, str]] = field(default_factory=list)
    tokenized: int = 0
    """The number of videos that gave clips."""
    keys: set[str] = field(default_factory=set)
    batches: dict[int, list[tuple[TokenSample, Frames]]] = field(default_factory=dict)
    """Clips that are decoded but not yet encoded, by bucket."""
    encoded: tuple[list[TokenSample], list[Tensor]] | None = None
    """The batch whose codes are still on the device."""

    def reject(self, key: str, reason: str, message: str) -> None:
        message = message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "…"
        message = message.encode(errors="backslashreplace").decode()  # a lone surrogate cannot be written
        self.rejects.append({"key": printable(key), "reason": reason, "message": message})


def guard(work: ShardWork, call: Callable[[], object]) -> None:
    """Let an error fail its shard only. Too many rejects end the task."""
    try:
        call()
    except TooManyRejectsError:
        raise
    except Exception as error:
        work.failure = error
        expected = isinstance(error, OSError | HiTVideoError | WorkerError)
        log.error("%s failed: %s", work.shard, error, exc_info=None if expected else error)


def receipt_of(work: ShardWork, contract: str) -> dict[str, Any]:
    """Return the receipt of a shard. Raises ShardError if a sample is lost or duplicated."""
    found = len(work.listing.samples) + len(work.listing.bad) + bool(work.listing.truncated)
    clips = len(work.records)
    if work.tokenized + len(work.rejects) != found or work.keys != work.records.keys() or len(work.keys) != clips:
        raise ShardError(
            f"{work.shard}: samples are lost or duplicated: {found} found, {work.tokenized} tokenized, {len(work.rejects)} "
            f"rejected; {clips} clips with {len(work.keys)} keys"
        )
    return {
        "stem": work.shard.stem,
        "source": work.shard.name,
        **work.source,
        "videos": found,
        "samples_in": clips + len(work.rejects),
        "samples_out": clips,
        "rejected": len(work.rejects),
        "rejects": sorted(work.rejects, key=lambda reject: (reject["key"], reject["reason"])),
        "contract": contract,
    }
