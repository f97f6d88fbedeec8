"""One token shard on disk: what the offline job writes for one video shard, same stem.

    000012.tar             a byte-reproducible webdataset tar: KEY.codes.npy, KEY.json for every sample, by bucket and key
    000012.index.npy       where every sample lies, its crc32, and where codes and captions lie within it
    000012.receipt.json    counts, sha256 of both, tokenizer fingerprint, rejects with reasons: committed last

`KEY.codes.npy` is one flat array, all levels' indices coarsest first; the grids stand in `KEY.json`. Counts and checksums
stand outside the payload because a tar cut between two members loses samples without any error.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.errors import ShardError
from hitvideo.files import json_bytes, locked, sha256, write_synced

# Of one sample: its record's bytes in the tar, and inside the record the codes (`tokens` integers of `width` bytes, at
# CODES_AT) and the JSON text of its caption or captions. Enough to make a training row without parsing tar, npy or JSON.
INDEX_DTYPE = np.dtype([
    ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"), ("tokens", "<u4"),
    ("caption", "<u4"), ("caption_bytes", "<u4"), ("width", "<u2"), ("bucket", "<u2"),
])  # fmt: skip
TAR_BLOCK = 512
NPY_HEADER = 128  # of any flat array below 10^40 numbers: numpy pads it to a multiple of 64
CODES_AT = TAR_BLOCK + NPY_HEADER


@dataclass(frozen=True)
class TokenSample:
    """One clip as codes: indices of each level (t, h, w), coarsest first, and what is known about it."""

    key: str
    codes: list[npt.NDArray[np.integer[Any]]]
    caption: str
    metadata: dict[str, Any]
    """`captions`, where it is there, holds [text, weight] pairs to choose from; `caption` is the first of them."""
    bucket: int = 0
    """Which of the dataset's clip shapes it has."""

    @property
    def captions(self) -> list[tuple[str, float]]:
        """Texts with weights; at least one."""
        return [(text, weight) for text, weight in self.metadata.get("captions", [(self.caption, 1.0)])]


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
    import webdataset

    index = np.zeros(len(samples), dtype=INDEX_DTYPE)
    offset = 0
    with path.open("wb") as file:
        writer = webdataset.TarWriter(file, user="root", group="root", mode=0o644, mtime=0, compress=False)
        for entry, sample in zip(index, sorted(samples, key=lambda sample: (sample.bucket, sample.key)), strict=True):
            flat = pack_codes(sample.codes)
            codes = npy_bytes(flat)
            assert len(codes) == NPY_HEADER + flat.nbytes
            text, span = _description(sample)
            writer.write({"__key__": sample.key, "codes.npy": codes, "json": text})
            length = sum(TAR_BLOCK + _whole_blocks(len(member)) for member in (codes, text))
            text_at = 2 * TAR_BLOCK + _whole_blocks(len(codes))
            entry["offset"], entry["length"], entry["bucket"] = offset, length, sample.bucket
            entry["tokens"], entry["width"] = flat.size, flat.itemsize
            entry["caption"], entry["caption_bytes"] = text_at + span.start, len(span)
            offset += length
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        for entry in index:
            entry["crc32"] = zlib.crc32(file.read(int(entry["length"])))
    return index


def _description(sample: TokenSample) -> tuple[bytes, range]:
    """A sample's JSON, and where in it the value of `captions`, else of `caption`, stands."""
    description = {"caption": sample.caption, "grids": [list(indices.shape) for indices in sample.codes], **sample.metadata}
    text = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
    name = "captions" if "captions" in description else "caption"
    value = json.dumps(description[name], sort_keys=True, ensure_ascii=False).encode()
    prefix = f'"{name}": '.encode()  # inside a string the quotes would be escaped, so this is a key, whoever's it is
    start = text.index(prefix + value) + len(prefix)
    return text, range(start, start + len(value))


def parse_sample(record: bytes, bucket: int = 0) -> TokenSample:
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
    return TokenSample(key, codes, description.pop("caption"), description, bucket)


def read_index(out: Path, receipt: dict[str, Any]) -> npt.NDArray[Any]:
    """A shard's index, as many entries as its receipt says. Raises ShardError."""
    path = shard_paths(out, receipt["stem"])[1]
    try:
        index: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path}: cannot read the index: {error}") from error
    if index.dtype != INDEX_DTYPE or len(index) != receipt["samples_out"]:
        raise ShardError(f"{path}: {len(index)} samples, the receipt says {receipt['samples_out']}")
    return index


def shard_paths(out: Path, stem: str) -> tuple[Path, Path, Path]:
    """Tar, index and receipt of a token shard."""
    return out / f"{stem}.tar", out / f"{stem}.index.npy", out / f"{stem}.receipt.json"


def commit(
    out: Path, stem: str, samples: Sequence[TokenSample], receipt: dict[str, Any], attempt: str, replace: bool = False
) -> bool:
    """Write tar, index and receipt so that the first receipt wins; False where another task was first.

    Everything is written under names of this attempt. Tar and index then move into place under a lock, and the receipt
    is linked last: `os.link` fails where one exists, where a rename would silently replace it. A kill at any moment
    leaves either no receipt, and the job does the shard again, or a receipt that is true. `replace`: do this shard's
    receipt away first; for a second pass over what was rejected.
    """
    tar, index_path, receipt_path = shard_paths(out, stem)
    temporary = [out / f".{path.name}.{attempt}" for path in (tar, index_path, receipt_path)]
    try:
        index = write_shard(temporary[0], samples)
        write_synced(temporary[1], npy_bytes(index))
        receipt = {**receipt, "tar_sha256": sha256(temporary[0]), "index_sha256": sha256(temporary[1])}
        write_synced(temporary[2], json_bytes(receipt))
        with locked(out / ".lock"):
            if replace:
                receipt_path.unlink(missing_ok=True)
            if receipt_path.exists():
                return False
            os.replace(temporary[0], tar)
            os.replace(temporary[1], index_path)
            os.link(temporary[2], receipt_path)
            return True
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _whole_blocks(size: int) -> int:
    return -(-size // TAR_BLOCK) * TAR_BLOCK


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def read_receipt(out: Path, stem: str) -> dict[str, Any] | None:
    path = shard_paths(out, stem)[2]
    receipt: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return receipt
