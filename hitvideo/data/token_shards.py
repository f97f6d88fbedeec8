"""The reader of token shards: random access to all samples of a dataset, by `pread` at the indexed offset.

Opening a dataset opens one file (see manifest_pack.py). A tar is opened when one of its samples is first read, and every
record is checked against its crc32.
"""

from __future__ import annotations

import itertools
import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.data.handles import POOL
from hitvideo.data.manifest import pack_path
from hitvideo.data.manifest_pack import open_pack
from hitvideo.data.order import NEWEST_ORDER, ORDERS, Order, permute
from hitvideo.data.token_format import shard_paths
from hitvideo.data.token_records import CODES_AT, TokenSample, parse_sample
from hitvideo.errors import ConfigError, ShardError, short
from hitvideo.hierarchy import ClipShape, Grid

log = logging.getLogger(__name__)
Int64s = npt.NDArray[np.int64]
_CAPTIONS_AT_ONCE = 4096
_PLACE = ("offset", "length", "crc32")
_NAMES = itertools.count()  # each dataset has its own names for its tars in the pool of open files


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
        self.stems = pack.stems
        """Names of the shards, as bytes."""
        self._starts = pack.starts[self.bucket]
        self._index = pack.bucket(self.bucket)
        # Samples of earlier buckets: within a shard they come before those of this bucket.
        self._before = pack.starts[: self.bucket].sum(axis=0)
        self._name = next(_NAMES)

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

    @cached_property
    def num_bits(self) -> list[int]:
        """Bits of every level's indices, coarsest first."""
        return [int(level["num_bits"]) for level in self.manifest["hierarchy"]["levels"]]

    def samples_of(self, shard: int) -> range:
        """The samples of one shard."""
        return range(int(self._starts[shard]), int(self._starts[shard + 1]))

    def entries(self, samples: range) -> npt.NDArray[Any]:
        """The index entries of consecutive samples: (n,) of INDEX_DTYPE."""
        found: npt.NDArray[Any] = self._index[samples.start : samples.stop]
        return found

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[TokenSample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, sample: int) -> TokenSample:
        """One sample. Raises ShardError, which names tar and number, if it is damaged or cut off."""
        entry = self._index[sample]
        record = self._record(sample, *self._shards_of(np.array([sample])), *(int(entry[name]) for name in _PLACE))
        try:
            return parse_sample(record, self.bucket)
        except ShardError as error:
            raise ShardError(f"{self.place(sample)}: {error}") from error

    def order(self, samples: range, seed: int, read_together: int, version: int = NEWEST_ORDER) -> Order:
        """The order in which `samples` are drawn: draw → place in `samples`."""
        return ORDERS[version](len(samples), seed, read_together)

    def captions(self, most: int | None = None, seed: int = 0) -> Iterator[str]:
        """The captions of every sample, or at most `most` of them, of samples drawn by `seed`.

        Only captions are read, at the places that the index gives; those that cannot be read are left out.
        """
        samples = np.arange(len(self) if most is None else min(most, len(self)), dtype=np.uint64)
        if len(samples) < len(self):
            samples = np.sort(permute(samples, len(self), seed))
        each = None if most is None or not samples.size else max(1, most // len(samples))
        left_out: list[str] = []
        for start in range(0, len(samples), _CAPTIONS_AT_ONCE):
            some = samples[start : start + _CAPTIONS_AT_ONCE]
            entries = self._index[some]
            places, sizes = (entries["offset"] + entries["caption"]).tolist(), entries["caption_bytes"].tolist()
            for sample, shard, place, size in zip(some.tolist(), self._shards_of(some), places, sizes, strict=True):
                try:
                    texts = _texts(self._bytes(shard, size, place))
                except (ShardError, ValueError, TypeError, RecursionError) as error:
                    left_out.append(f"{self.place(sample)}: {short(error)}")
                else:
                    yield from texts[:each]
        if left_out:
            log.warning("left out the captions of %d samples, the first: %s", len(left_out), left_out[0])

    def read(self, samples: Sequence[int] | Int64s) -> TokenRows:
        """Codes and captions of some samples, in the given order; the result names those that are damaged."""
        samples = np.asarray(samples, dtype=np.int64)
        rows = TokenRows(np.empty((len(samples), self.tokens), np.int64), [b'""'] * len(samples), {})
        entries = self._index[samples]
        columns = [entries[name].tolist() for name in (*_PLACE, "width", "tokens", "caption", "caption_bytes")]
        for row, (sample, shard, offset, length, crc32, width, tokens, caption, size) in enumerate(
            zip(samples.tolist(), self._shards_of(samples), *columns, strict=True)
        ):
            try:
                record = self._record(sample, shard, offset, length, crc32)
                if tokens != self.tokens:
                    raise ShardError(f"{self.place(sample)} has {tokens} tokens, its bucket's clips have {self.tokens}")
                if CODES_AT + tokens * width > length or width not in (2, 4):
                    raise ShardError(f"{self.place(sample)}: its index entry gives {tokens} codes of {width} bytes in {length}")
            except ShardError as error:
                rows.codes[row] = 0
                rows.damaged[row] = error
                continue
            rows.codes[row] = np.frombuffer(record, np.uint16 if width == 2 else np.uint32, tokens, CODES_AT)
            rows.captions[row] = record[caption : caption + size]
        return rows

    def _record(self, sample: int, shard: int, offset: int, length: int, crc32: int) -> bytes:
        record = self._bytes(shard, length, offset)
        if zlib.crc32(record) != crc32:
            raise ShardError(f"{self.place(sample)} is damaged ({len(record)} bytes read)")
        return record

    def _shards_of(self, samples: npt.NDArray[Any]) -> list[int]:
        shards: list[int] = (np.searchsorted(self._starts, samples.astype(np.uint64), side="right") - 1).tolist()
        return shards

    def place(self, sample: int) -> str:
        """Names a sample in messages: its tar, and its number there."""
        (shard,) = self._shards_of(np.array([sample]))
        before = int(self._before[shard + 1] - self._before[shard])
        return f"{self._tar(shard)}: sample {sample - int(self._starts[shard]) + before}"

    def _tar(self, shard: int) -> Path:
        return shard_paths(self.path.parent, self.stems[shard].decode())[0]

    def _bytes(self, shard: int, length: int, offset: int) -> bytes:
        return POOL.read((self._name, shard), partial(self._tar, shard), length, offset)


def _texts(caption: bytes) -> list[str]:
    """The texts in the JSON of a caption or of [text, weight] pairs. Raises ValueError or TypeError if it is neither."""
    found = json.loads(caption)
    return [found] if isinstance(found, str) else [str(text) for text, _ in found]
