"""Reading token shards: random access to all samples of a dataset, by `pread` at the recorded offset.

Opening a dataset opens one file (see pack_index.py). A tar is opened when a sample of it is asked for; every record is
checked against its crc32 when it is read.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.data.manifest import pack_path
from hitvideo.data.manifest_pack import open_pack
from hitvideo.data.order import Order
from hitvideo.data.token_format import CODES_AT, TokenSample, parse_sample, shard_paths
from hitvideo.errors import ConfigError, ShardError
from hitvideo.hierarchy import ClipShape, Grid

Int64s = npt.NDArray[np.int64]
_PLACE = ("offset", "length", "crc32")
_OPEN_TARS = 64  # per thread; a dataset may have a million


@dataclass
class TokenRows:
    """Samples as the trainer wants them; a damaged row holds zeros."""

    codes: Int64s  # (n, tokens): every level's indices, coarsest first, flat
    captions: list[bytes]
    """JSON of a caption, or of [text, weight] pairs; see `choose_caption`."""
    damaged: dict[int, ShardError]
    """Row → what is wrong with it."""


class TokenDataset:
    """The samples of one bucket of a manifest (one clip shape; most datasets have one bucket only)."""

    def __init__(self, manifest: Path | str, clip: ClipShape | None = None) -> None:
        """`clip` chooses the bucket, where there are several. Raises ConfigError, ShardError (see `open_pack`)."""
        self.path = Path(manifest)
        pack = self._open()
        self.manifest: dict[str, Any] = pack.header
        """manifest.json without the receipts."""
        self.bucket = self._find_bucket(clip)
        several = len(self.manifest.get("buckets", ())) > 1
        self.digest: str = self.manifest["digest"] + (f"-{self.bucket}" if several else "")
        self._stems = pack.stems
        self._starts = pack.starts[self.bucket]
        self._index = pack.bucket(self.bucket)
        # Where in its shard's own numbering this bucket begins: the buckets before it come first.
        self._before = pack.starts[: self.bucket].sum(axis=0)
        self._local = threading.local()

    def _open(self) -> Any:
        if not self.path.is_file():
            raise ConfigError(f"data.manifest {self.path}: cannot be read: no such file")
        if not pack_path(self.path).is_file():
            raise ConfigError(
                f"data.manifest {self.path}: not a manifest of tokenize_shards, or of an older one: there is no "
                f"{pack_path(self.path).name} beside it; its command, run again, writes it"
            )
        return open_pack(pack_path(self.path))

    def _find_bucket(self, clip: ClipShape | None) -> int:
        clips = [ClipShape(**bucket["video"]) for bucket in self.manifest.get("buckets", ())]
        if clip is None or len(clips) <= 1:
            return 0
        if clip not in clips:
            found = ", ".join(f"{c.frames}×{c.height}×{c.width} at {c.fps:g} fps" for c in clips)
            raise ConfigError(f"data.manifest {self.path} has buckets of {found}; the run's `clip` is none of them")
        return clips.index(clip)

    @cached_property
    def grids(self) -> list[Grid]:
        """Every level's grid, coarsest first."""
        buckets = self.manifest.get("buckets")
        return [Grid(*grid) for grid in (buckets[self.bucket]["grids"] if buckets else self.manifest["grids"])]

    @cached_property
    def tokens(self) -> int:
        """Of one sample."""
        return sum(grid.cells for grid in self.grids)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[TokenSample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, sample: int) -> TokenSample:
        """Raises ShardError, naming shard and number, for a sample that is damaged or cut off."""
        entry = self._index[sample]
        record = self._record(sample, self._shard_of(sample), *(int(entry[name]) for name in _PLACE))
        return parse_sample(record, self.bucket)

    def order(self, samples: range, seed: int, read_together: int) -> Order:
        """The order in which a part of the samples is drawn; of places in the part."""
        return Order(len(samples), seed, read_together)

    def captions(self) -> Iterator[str]:
        """Every text of every sample."""
        return (text for sample in self for text, _ in sample.captions)

    def read(self, samples: Sequence[int] | Int64s) -> TokenRows:
        """The codes and captions of some samples, in their order."""
        samples = np.asarray(samples, dtype=np.int64)
        rows = TokenRows(np.empty((len(samples), self.tokens), np.int64), [b'""'] * len(samples), {})
        entries = self._index[samples]
        columns = [entries[name].tolist() for name in (*_PLACE, "width", "tokens", "caption", "caption_bytes")]
        shards = (np.searchsorted(self._starts, samples.astype(np.uint64), side="right") - 1).tolist()
        for row, (sample, shard, offset, length, crc32, width, tokens, caption, size) in enumerate(
            zip(samples.tolist(), shards, *columns, strict=True)
        ):
            try:
                record = self._record(sample, shard, offset, length, crc32)
                if tokens != self.tokens:
                    raise ShardError(f"{self._place(sample)} has {tokens} tokens, its bucket {self.tokens}")
            except ShardError as error:
                rows.codes[row] = 0
                rows.damaged[row] = error
                continue
            rows.codes[row] = np.frombuffer(record, np.uint16 if width == 2 else np.uint32, tokens, CODES_AT)
            rows.captions[row] = record[caption : caption + size]
        return rows

    def _record(self, sample: int, shard: int, offset: int, length: int, crc32: int) -> bytes:
        record = os.pread(self._handle(shard), length, offset)
        if zlib.crc32(record) != crc32:
            raise ShardError(f"{self._place(sample)} is damaged ({len(record)} bytes read)")
        return record

    def _shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self._starts, np.uint64(sample), side="right")) - 1

    def _place(self, sample: int) -> str:
        shard = self._shard_of(sample)
        before = int(self._before[shard + 1] - self._before[shard])
        return f"{self._tar(shard)}: sample {sample - int(self._starts[shard]) + before}"

    def _tar(self, shard: int) -> Path:
        return shard_paths(self.path.parent, self._stems[shard].decode())[0]

    def _handle(self, shard: int) -> int:
        """An open tar; each thread has its own, so that none is closed under another's read."""
        handles: OrderedDict[int, int] = self._local.__dict__.setdefault("handles", OrderedDict())
        if shard not in handles:
            try:
                handles[shard] = os.open(self._tar(shard), os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{self._tar(shard)}: cannot be opened: {error}") from error
            if len(handles) > _OPEN_TARS:
                os.close(handles.popitem(last=False)[1])
        handles.move_to_end(shard)
        return handles[shard]
