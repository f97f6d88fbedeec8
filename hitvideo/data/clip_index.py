"""The list of all videos of some video shards, in one file, so that only the first start walks through the tars.

    .clips-DIGEST.index    magic, place of the table │ entries │ table (JSON): each shard's name, size, time and counts

The entries are mapped, not read: ten million videos cost no memory. A shard whose size or time has changed is listed again;
of a shard at a URL only the size is known.
"""

from __future__ import annotations

import json
import logging
import mmap
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo import config
from hitvideo.data.remote import Shard, byte_size
from hitvideo.data.video_shards import scan
from hitvideo.files import locked, replacing

ENTRY = np.dtype([("offset", "<u8"), ("size", "<u8"), ("key", "S48")])
"""Place of a video in its shard, and its key, cut to 48 bytes, for messages."""
MAGIC = b"HVCLIP01"
_PREFIX = struct.Struct("<8sQ")
_PROGRESS_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass
class _Listed:
    """What one shard holds, and the size and time that it had when it was listed."""

    shard: str
    size: int
    time_ns: int
    videos: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason → number of samples."""
    cut: str | None = None
    """What is missing at its end."""

    def same_file(self, other: _Listed) -> bool:
        return (self.shard, self.size, self.time_ns) == (other.shard, other.size, other.time_ns)


class ClipIndex:
    """Every video of the shards, in their order."""

    def __init__(self, listed: Sequence[_Listed], entries: npt.NDArray[Any]) -> None:
        self.listed = listed
        self.entries = entries  # (videos,) of ENTRY
        self.starts = np.cumsum([0, *(shard.videos for shard in listed)])

    def of(self, number: int) -> npt.NDArray[Any]:
        """The entries of one shard."""
        return self.entries[self.starts[number] : self.starts[number + 1]]

    def summary(self) -> str:
        """How many videos there are, and what could not be listed, by reason."""
        words = f"{len(self.entries)} videos in {len(self.listed)} video shards"
        left_out = sum((Counter(shard.left_out) for shard in self.listed), Counter[str]())
        if left_out:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
            words += f"; {left_out.total()} samples are left out ({reasons})"
        if cut := [shard.cut for shard in self.listed if shard.cut]:
            words += f"; {len(cut)} shards are cut, so that the rest of their samples is missing: {cut[0]}"
        return words


def list_clips(shards: Sequence[Shard], folder: Path | None = None) -> ClipIndex:
    """List the videos of some shards. With a `folder` the list is kept there, for the next start and for other processes.

    Raises ShardError if a file is not a tar, OSError if one cannot be read.
    """
    now = [_Listed(str(shard), byte_size(shard), _time_of(shard)) for shard in shards]
    if folder is None:
        parts = list(_entries(shards, now, None))
        return ClipIndex(now, np.concatenate(parts) if parts else np.zeros(0, ENTRY))
    path = folder / f".clips-{config.fingerprint({'shards': [shard.shard for shard in now]})}.index"
    with _alone(path):
        kept = _open(path)
        if kept is None or len(kept.listed) != len(now) or not all(map(_Listed.same_file, kept.listed, now)):
            log.info("listing the videos of %d video shards; the list is kept in %s", len(shards), path)
            _write(path, now, _entries(shards, now, kept))
            kept = _open(path)
            assert kept, f"{path} was just written"
    return kept


def _entries(shards: Sequence[Shard], now: Sequence[_Listed], kept: ClipIndex | None) -> Iterator[npt.NDArray[Any]]:
    """Each shard's entries, from the kept list if the shard is as it was; completes `now`."""
    known = {shard.shard: number for number, shard in enumerate(kept.listed)} if kept else {}
    said, videos = time.monotonic(), 0
    for number, (shard, listed) in enumerate(zip(shards, now, strict=True)):
        before = known.get(listed.shard)
        if kept and before is not None and kept.listed[before].same_file(listed):
            entries = kept.of(before)
            listed.left_out, listed.cut = kept.listed[before].left_out, kept.listed[before].cut
        else:
            found = scan(shard)
            entries = np.array([(*m.video[:2], m.key.encode(errors="backslashreplace")[:48]) for m in found.samples], ENTRY)
            listed.left_out, listed.cut = dict(Counter(reason for _, reason in found.bad)), found.truncated
        listed.videos = len(entries)
        videos += len(entries)
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            log.info("listed %d of %d video shards, %d videos", number + 1, len(shards), videos)
        yield entries


def _write(path: Path, listed: Sequence[_Listed], parts: Iterator[npt.NDArray[Any]]) -> None:
    """The entries first, because the header's counts are known after them; both get the file's name at once."""
    with replacing(path, synced=False) as temporary, temporary.open("wb") as file:
        file.write(_PREFIX.pack(MAGIC, 0))
        for part in parts:
            file.write(part.tobytes())
        at = file.tell()
        file.write(json.dumps([asdict(shard) for shard in listed]).encode())
        file.seek(0)
        file.write(_PREFIX.pack(MAGIC, at))


def _open(path: Path) -> ClipIndex | None:
    """A kept list; None if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            magic, at = _PREFIX.unpack(file.read(_PREFIX.size))
            file.seek(at)
            listed = [_Listed(**shard) for shard in json.loads(file.read())]
            count = sum(shard.videos for shard in listed)
            if magic != MAGIC or at != _PREFIX.size + count * ENTRY.itemsize:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, TypeError, struct.error):
        return None
    return ClipIndex(listed, np.frombuffer(mapped, ENTRY, count, _PREFIX.size))


def _time_of(shard: Shard) -> int:
    return shard.stat().st_mtime_ns if isinstance(shard, Path) else 0


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process lists while the others wait for its list. Where locks do not work, each makes the same list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(locked(path.with_suffix(".lock")))
        yield
