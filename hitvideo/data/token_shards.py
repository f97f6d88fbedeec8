"""The reader of token shards: random access to all samples of a dataset, by `pread` at the indexed offset.

Opening a dataset opens one file (see manifest_pack.py). A tar is opened when one of its samples is first read, and every
record is checked against its crc32.
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
    """Codes and captions of several samples; a damaged row holds zeros."""

    codes: Int64s  # (n, tokens): every level's indices, coarsest first, flat
    captions: list[bytes]
    """The JSON of a caption or of [text, weight] pairs, which `choose_caption` reads."""
    damaged: dict[int, ShardError]
    """Row → what is wrong with it."""


class TokenDataset:
    """The samples of one bucket of a manifest (one clip shape; most datasets have one bucket only)."""

    def __init__(self, manifest: Path | str, clip: ClipShape | None = None) -> None:
        """`clip` chooses the bucket if there are several. Raises ConfigError, and ShardError as `open_pack` does."""
        self.path = Path(manifest)
        pack = self._open()
        self.manifest: dict[str, Any] = pack.header
        """The content of manifest.json without its receipts."""
        self.bucket = self._find_bucket(clip)
        several = len(self.manifest.get("buckets", ())) > 1
        self.digest: str = self.manifest["digest"] + (f"-{self.bucket}" if several else "")
        self._stems = pack.stems
        self._starts = pack.starts[self.bucket]
        self._index = pack.bucket(self.bucket)
        # Samples of earlier buckets: within a shard they come before those of this bucket.
        self._before = pack.starts[: self.bucket].sum(axis=0)
        self._local = threading.local()

    def _open(self) -> Any:
        if not self.path.is_file():
            raise ConfigError(f"data.manifest {self.path}: cannot be read: no such file")
        if not pack_path(self.path).is_file():
            raise ConfigError(
                f"data.manifest {self.path}: {pack_path(self.path).name} is missing next to it; if this is a manifest of "
                f"tokenize_shards, run the same command again to write it"
            )
        return open_pack(pack_path(self.path))

    def _find_bucket(self, clip: ClipShape | None) -> int:
        clips = [ClipShape(**bucket["video"]) for bucket in self.manifest.get("buckets", ())]
        if clip is None or len(clips) <= 1:
            return 0
        if clip not in clips:
            found = ", ".join(f"{c.frames}×{c.height}×{c.width} at {c.fps:g} fps" for c in clips)
            raise ConfigError(f"data.manifest {self.path} has buckets of {found}; set `clip` to one of them")
        return clips.index(clip)

    @cached_property
    def grids(self) -> list[Grid]:
        """Every level's grid, coarsest first."""
        buckets = self.manifest.get("buckets")
        return [Grid(*grid) for grid in (buckets[self.bucket]["grids"] if buckets else self.manifest["grids"])]

    @cached_property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return sum(grid.cells for grid in self.grids)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[TokenSample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, sample: int) -> TokenSample:
        """One sample. Raises ShardError, which names tar and number, if it is damaged or cut off."""
        entry = self._index[sample]
        record = self._record(sample, self._shard_of(sample), *(int(entry[name]) for name in _PLACE))
        return parse_sample(record, self.bucket)

    def order(self, samples: range, seed: int, read_together: int) -> Order:
        """The order in which `samples` are drawn: draw → place in `samples`."""
        return Order(len(samples), seed, read_together)

    def captions(self) -> Iterator[str]:
        """Every caption of every sample."""
        return (text for sample in self for text, _ in sample.captions)

    def read(self, samples: Sequence[int] | Int64s) -> TokenRows:
        """Codes and captions of some samples, in the given order; the result names those that are damaged."""
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
                    raise ShardError(f"{self._place(sample)} has {tokens} tokens, its bucket's clips have {self.tokens}")
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
        """The descriptor of an open tar. Each thread has its own, so that no thread closes a tar that another reads."""
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
