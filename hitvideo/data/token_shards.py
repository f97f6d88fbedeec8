"""Token shards: what the offline job writes and the trainer reads. One token shard per video shard, same stem.

    000012.tar             a byte-reproducible webdataset tar: KEY.codes.npy, KEY.json for every sample, keys sorted
    000012.index.npy       offset, length, crc32 of every sample
    000012.receipt.json    counts, sha256 of both, tokenizer fingerprint, rejects with reasons: committed last
    manifest.json          all receipts of the dataset, its hierarchy and tokenizer, and one digest over them

`KEY.codes.npy` is one flat array, all levels' indices coarsest first; the grids stand in `KEY.json`. Counts and checksums
stand outside the payload because a tar cut between two members loses samples without any error.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import webdataset

from hitvideo.config import ConfigError
from hitvideo.data import ShardError

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u8"), ("crc32", "<u4")])
TAR_BLOCK = 512
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TokenSample:
    """One clip as codes: indices of each level (t, h, w), coarsest first, and what is known about it."""

    key: str
    codes: list[npt.NDArray[np.integer[Any]]]
    caption: str
    metadata: dict[str, Any]


def pack_codes(codes: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All levels flat, in the smallest of uint16 and uint32 that holds them."""
    flat = np.concatenate([np.asarray(indices).reshape(-1) for indices in codes])
    return flat.astype(np.uint16 if flat.max(initial=0) < 1 << 16 else np.uint32)


def unpack_codes(flat: npt.NDArray[Any], grids: Sequence[Sequence[int]]) -> list[npt.NDArray[Any]]:
    """The inverse of `pack_codes`, given each level's grid."""
    sizes = [int(np.prod(grid)) for grid in grids]
    if sum(sizes) != flat.size:
        raise ShardError(f"{flat.size} indices do not fill the grids {[list(grid) for grid in grids]}")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(tuple(grid)) for part, grid in zip(parts, grids, strict=True)]


def write_shard(path: Path, samples: Sequence[TokenSample]) -> npt.NDArray[Any]:
    """Write one token shard (no commit yet) and return its index. The same samples give the same bytes."""
    lengths = []
    with path.open("wb") as file:
        writer = webdataset.TarWriter(file, user="root", group="root", mode=0o644, mtime=0, compress=False)
        for sample in sorted(samples, key=lambda sample: sample.key):
            npy = io.BytesIO()
            np.save(npy, pack_codes(sample.codes), allow_pickle=False)
            description = {
                "caption": sample.caption, "grids": [list(indices.shape) for indices in sample.codes], **sample.metadata
            }
            text = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
            writer.write({"__key__": sample.key, "codes.npy": npy.getvalue(), "json": text})
            lengths.append(sum(TAR_BLOCK + _whole_blocks(len(member)) for member in (npy.getvalue(), text)))
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    index = np.zeros(len(lengths), dtype=INDEX_DTYPE)
    index["length"] = lengths
    index["offset"] = np.cumsum([0, *lengths])[:-1]
    with path.open("rb") as file:
        for entry in index:
            entry["crc32"] = zlib.crc32(file.read(int(entry["length"])))
    return index


def parse_sample(record: bytes) -> TokenSample:
    """One sample from the bytes its index entry points at: two tar members of webdataset's."""
    members: dict[str, bytes] = {}
    key, at = "", 0
    while at < len(record):
        header = record[at : at + TAR_BLOCK]
        name, size = header[:100].rstrip(b"\0").decode(), int(header[124:136].rstrip(b"\0 "), 8)
        key, _, extension = name.partition(".")
        members[extension] = record[at + TAR_BLOCK : at + TAR_BLOCK + size]
        at += TAR_BLOCK + _whole_blocks(size)
    description = json.loads(members["json"])
    flat = np.load(io.BytesIO(members["codes.npy"]), allow_pickle=False)
    codes = unpack_codes(flat, description.pop("grids"))
    return TokenSample(key, codes, description.pop("caption"), description)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_paths(out: Path, stem: str) -> tuple[Path, Path, Path]:
    """Tar, index and receipt of a token shard."""
    return out / f"{stem}.tar", out / f"{stem}.index.npy", out / f"{stem}.receipt.json"


def commit(out: Path, stem: str, samples: Sequence[TokenSample], receipt: dict[str, Any], attempt: str) -> bool:
    """Write tar, index and receipt so that the first receipt wins; False where another task was first.

    Everything is written under names of this attempt. Tar and index then move into place under a lock, and the receipt
    is linked last: `os.link` fails where one exists, where a rename would silently replace it. A kill at any moment
    leaves either no receipt, and the job does the shard again, or a receipt that is true.
    """
    tar, index_path, receipt_path = shard_paths(out, stem)
    temporary = [out / f".{path.name}.{attempt}" for path in (tar, index_path, receipt_path)]
    try:
        index = write_shard(temporary[0], samples)
        _write(temporary[1], _npy(index))
        receipt = {**receipt, "tar_sha256": sha256(temporary[0]), "index_sha256": sha256(temporary[1])}
        _write(temporary[2], json.dumps(receipt, indent=1, sort_keys=True, ensure_ascii=False).encode())
        with locked(out / ".lock"):
            if receipt_path.exists():
                return False
            os.replace(temporary[0], tar)
            os.replace(temporary[1], index_path)
            os.link(temporary[2], receipt_path)
            return True
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; it falls with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_manifest(out: Path, receipts: Sequence[dict[str, Any]], description: dict[str, Any]) -> Path:
    """All receipts in one file: a pure function of them, so it does not matter which task writes it, or how often."""
    receipts = sorted(receipts, key=lambda receipt: receipt["stem"])
    digest = hashlib.sha256("".join(r["tar_sha256"] + r["index_sha256"] for r in receipts).encode()).hexdigest()
    totals = {name: sum(r[name] for r in receipts) for name in ("samples_in", "samples_out", "rejected")}
    manifest = {"digest": digest, **totals, **description, "shards": receipts}
    temporary = out / f".{MANIFEST}.{os.getpid()}"
    _write(temporary, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode())
    os.replace(temporary, out / MANIFEST)
    return out / MANIFEST


class TokenDataset:
    """Random access to all samples of a manifest: one `pread` each, checked against its crc32."""

    def __init__(self, manifest: Path | str) -> None:
        self.path = Path(manifest)
        try:
            self.manifest: dict[str, Any] = json.loads(self.path.read_text())
            stems = [receipt["stem"] for receipt in self.manifest["shards"]]
            self.digest: str = self.manifest["digest"]
        except OSError as error:
            raise ConfigError(f"data.manifest {self.path}: cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"data.manifest {self.path}: not a manifest of tokenize_shards: {error!r}") from error
        self._tars = [shard_paths(self.path.parent, stem)[0] for stem in stems]
        indexes = [self._read_index(receipt) for receipt in self.manifest["shards"]]
        self._index = np.concatenate(indexes) if indexes else np.zeros(0, dtype=INDEX_DTYPE)
        self._starts = np.cumsum([0] + [len(index) for index in indexes])
        self._handles: dict[int, int] = {}

    def _read_index(self, receipt: dict[str, Any]) -> npt.NDArray[Any]:
        path = shard_paths(self.path.parent, receipt["stem"])[1]
        try:
            index: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ShardError(f"{path}: cannot read the index: {error}") from error
        if index.dtype != INDEX_DTYPE or len(index) != receipt["samples_out"]:
            raise ShardError(f"{path}: {len(index)} samples, the receipt says {receipt['samples_out']}")
        return index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[TokenSample]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, sample: int) -> TokenSample:
        """Raises ShardError, naming shard and number, for a sample that is damaged or cut off."""
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        entry = self._index[sample]
        if shard not in self._handles:
            try:
                self._handles[shard] = os.open(self._tars[shard], os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{self._tars[shard]}: cannot be opened: {error}") from error
        record = os.pread(self._handles[shard], int(entry["length"]), int(entry["offset"]))
        if zlib.crc32(record) != entry["crc32"]:
            number = sample - self._starts[shard]
            raise ShardError(f"{self._tars[shard]}: sample {number} is damaged ({len(record)} bytes read)")
        return parse_sample(record)


def _whole_blocks(size: int) -> int:
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def _npy(array: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
