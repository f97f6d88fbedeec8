"""manifest.pack: all indexes of a dataset in one file, so that a trainer opens one file for any number of shards.

    manifest.pack    magic, size of the header │ header (JSON) │ starts │ stems │ entries

`starts[b, s]` counts the samples of bucket b before shard s: a binary search finds a sample's shard. `entries` are the
shards' own index entries, bucket after bucket, shard after shard. They are mapped, not read: of a billion samples only the
pages that are used come into memory. (Tars are not mapped but read by `pread`.)
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.data.token_records import INDEX_DTYPE
from hitvideo.errors import ConfigError, HiTVideoError, ShardError
from hitvideo.files import replacing

MAGIC = b"HVPACK01"
_PREFIX = struct.Struct("<8sQ")  # magic, size of the header in bytes
_ALIGNMENT = 64
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pack:
    """An opened pack; `entries` is a view of the mapped file."""

    header: dict[str, Any]
    """The manifest without its list of receipts."""
    starts: npt.NDArray[np.uint64]  # (buckets, shards + 1)
    stems: npt.NDArray[np.bytes_]  # (shards,)
    entries: npt.NDArray[Any]  # (samples,) of INDEX_DTYPE

    def bucket(self, number: int) -> npt.NDArray[Any]:
        """The entries of one bucket, in the order of the shards."""
        first = int(self.starts[:number, -1].sum())
        return self.entries[first : first + int(self.starts[number, -1])]


def write_pack(
    path: Path, header: dict[str, Any], stems: Sequence[str], counts: npt.NDArray[Any], indexes: Iterable[npt.NDArray[Any]]
) -> None:
    """Write a pack; `counts`: samples (shards, buckets); `indexes`: the shards' indexes, each sorted by bucket.

    The file gets its name only when it is complete, and the same arguments give the same bytes.
    """
    starts = np.zeros((counts.shape[1], counts.shape[0] + 1), np.uint64)
    np.cumsum(counts.T, axis=1, out=starts[:, 1:])
    names = np.array([stem.encode() for stem in stems], dtype=np.bytes_) if stems else np.zeros(0, "S1")
    total = int(starts[:, -1].sum())
    table = starts.tobytes() + names.tobytes()
    layout = {"buckets": counts.shape[1], "shards": len(stems), "stem_bytes": names.dtype.itemsize, "samples": total}
    layout |= {"entry": INDEX_DTYPE.descr, "table_sha256": hashlib.sha256(table).hexdigest()}
    layout["manifest_sha256"] = _digest(header)
    text = json.dumps({"layout": layout, "manifest": header}, sort_keys=True, ensure_ascii=False).encode()
    text += b" " * (-(_PREFIX.size + len(text)) % _ALIGNMENT)
    first = _aligned(_PREFIX.size + len(text) + len(table))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_PREFIX.pack(MAGIC, len(text)) + text + table)
        file.truncate(first + total * INDEX_DTYPE.itemsize)
        before = np.concatenate([[0], np.cumsum(starts[:, -1])[:-1]]).astype(np.uint64)
        for shard, index in enumerate(indexes):
            places = before + starts[:, shard]
            done = 0
            for bucket, count in enumerate(counts[shard].tolist()):
                file.seek(first + int(places[bucket]) * INDEX_DTYPE.itemsize)
                file.write(index[done : done + count].tobytes())
                done += count


def open_pack(path: Path) -> Pack:
    """Open a pack. Raises ConfigError if this is not a pack, ShardError if it is truncated or damaged."""
    try:
        return _opened(path)
    except HiTVideoError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ShardError(f"{path}: damaged: {error!r:.300}") from error


def _opened(path: Path) -> Pack:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_PREFIX.size)
        magic, length = _PREFIX.unpack(start) if len(start) == _PREFIX.size else (b"", 0)
        if magic != MAGIC:
            raise ConfigError(f"{path}: not a pack of tokenize_shards; run the same command again to write it")
        header = json.loads(file.read(min(length, size)))
        layout, manifest = header["layout"], header["manifest"]
        shards, buckets, samples, width = (layout[name] for name in ("shards", "buckets", "samples", "stem_bytes"))
        starts_bytes, stems_bytes = 8 * buckets * (shards + 1), width * shards
        if min(shards, samples) < 0 or buckets < 1 or not 0 <= starts_bytes + stems_bytes <= size:
            raise ShardError(f"{path}: damaged: {shards} shards and {buckets} buckets in {size} bytes")
        table = file.read(starts_bytes + stems_bytes)
    first = _aligned(_PREFIX.size + length + len(table))
    if size != first + samples * INDEX_DTYPE.itemsize:
        raise ShardError(f"{path}: has {size} bytes, but by its header {first + samples * INDEX_DTYPE.itemsize}")
    same_entry = np.dtype([tuple(field) for field in layout["entry"]]) == INDEX_DTYPE
    same_header = layout.get("manifest_sha256") in (None, _digest(manifest))  # earlier packs have none
    if not same_entry or not same_header or hashlib.sha256(table).hexdigest() != layout["table_sha256"]:
        raise ShardError(f"{path}: damaged: it does not match its checksums")
    starts = np.frombuffer(table, np.uint64, buckets * (shards + 1)).reshape(buckets, shards + 1)
    stems = np.frombuffer(table, f"S{width}", shards, starts_bytes)
    if not isinstance(manifest["digest"], str) or int(starts[:, -1].sum()) != samples or np.any(starts[:, 1:] < starts[:, :-1]):
        raise ShardError(f"{path}: damaged: its table does not describe {samples} samples")
    entries: npt.NDArray[Any] = np.zeros(0, INDEX_DTYPE)
    if samples:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)  # a batch reads a few scattered pages; read-ahead would fetch megabytes
        entries = np.frombuffer(mapped, INDEX_DTYPE, samples, first)
    return Pack(manifest, starts, stems, entries)


def _digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
