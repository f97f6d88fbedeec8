"""The files of a token shard, which tokenize_shards writes for the video shard of the same stem.

    000012.tar             a byte-reproducible webdataset tar: KEY.codes.npy, KEY.json for every sample, by bucket and key
    000012.index.npy       offset and crc32 of every sample, and the places of codes and captions within it
    000012.receipt.json    counts, sha256 of both, the tokenizer's fingerprint, rejects with reasons: committed last

`KEY.codes.npy` is one flat array of all levels' indices, coarsest first; `KEY.json` holds the grids. Counts and checksums
are outside the tar because a tar that is cut between two members loses samples without any error.
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

# One sample: the bytes of its record in the tar, and in the record the codes (`tokens` integers of `width` bytes, at
# CODES_AT) and the JSON text of its caption or captions: enough to make a training row without parsing tar, npy or JSON.
INDEX_DTYPE = np.dtype([
    ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"), ("tokens", "<u4"),
    ("caption", "<u4"), ("caption_bytes", "<u4"), ("width", "<u2"), ("bucket", "<u2"),
])  # fmt: skip
TAR_BLOCK = 512
NPY_HEADER = 128  # the same for every flat array: numpy pads the header to a multiple of 64
CODES_AT = TAR_BLOCK + NPY_HEADER


@dataclass(frozen=True)
class TokenSample:
    """One clip as codes (each level's indices (t, h, w), coarsest first), with its caption and metadata."""

    key: str
    codes: list[npt.NDArray[np.integer[Any]]]
    caption: str
    metadata: dict[str, Any]
    """Any JSON. `captions`, if present, holds [text, weight] pairs to choose from; `caption` is the first of them."""
    bucket: int = 0
    """Number of its clip shape among the dataset's buckets."""

    @property
    def captions(self) -> list[tuple[str, float]]:
        """One or more (text, weight) pairs."""
        return [(text, weight) for text, weight in self.metadata.get("captions", [(self.caption, 1.0)])]


def pack_codes(codes: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All levels in one flat array, of uint16 if that holds them, else uint32."""
    flat = np.concatenate([np.asarray(indices).reshape(-1) for indices in codes])
    return flat.astype(np.uint16 if flat.max(initial=0) < 1 << 16 else np.uint32)


def unpack_codes(flat: npt.NDArray[Any], grids: Sequence[Sequence[int]]) -> list[npt.NDArray[Any]]:
    """The inverse of `pack_codes`, given each level's grid. Raises ShardError if the grids need another size."""
    sizes = [int(np.prod(grid)) for grid in grids]
    if sum(sizes) != flat.size:
        raise ShardError(f"{flat.size} indices do not fill the grids {[list(grid) for grid in grids]}")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(tuple(grid)) for part, grid in zip(parts, grids, strict=True)]


def write_shard(path: Path, samples: Sequence[TokenSample]) -> npt.NDArray[Any]:
    """Write the tar of a token shard and return its index. The same samples give the same bytes."""
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


def parse_sample(record: bytes, bucket: int = 0) -> TokenSample:
    """One sample from the bytes that its index entry gives: two members of the tar."""
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
    """A shard's index. Raises ShardError if it cannot be read or differs from the receipt's count."""
    path = shard_paths(out, receipt["stem"])[1]
    try:
        index: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardError(f"{path}: cannot read the index: {error}") from error
    if index.dtype != INDEX_DTYPE or len(index) != receipt["samples_out"]:
        raise ShardError(f"{path}: has {len(index)} samples, but by its receipt {receipt['samples_out']}")
    return index


def shard_paths(out: Path, stem: str) -> tuple[Path, Path, Path]:
    """Paths of a token shard's tar, index and receipt."""
    return out / f"{stem}.tar", out / f"{stem}.index.npy", out / f"{stem}.receipt.json"


def commit(
    out: Path, stem: str, samples: Sequence[TokenSample], receipt: dict[str, Any], attempt: str, replace: bool = False
) -> bool:
    """Write tar, index and receipt, unless another task committed the shard first; returns whether this one did.

    All three are written under temporary names of this `attempt`. Under a lock, tar and index are then renamed and the
    receipt is linked last, because `os.link` fails if there is one already and a rename would replace it. A kill at any
    moment leaves either no receipt, and the shard is done again, or a correct one. `replace`: first remove the shard's
    receipt, for a second pass over its rejects.
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


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """The content of a .npy file."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def read_receipt(out: Path, stem: str) -> dict[str, Any] | None:
    """A shard's receipt, or None if it has none."""
    path = shard_paths(out, stem)[2]
    receipt: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return receipt


def _description(sample: TokenSample) -> tuple[bytes, range]:
    """A sample's JSON, and the bytes in it that hold the value of `captions`, else of `caption`."""
    description = {"caption": sample.caption, "grids": [list(indices.shape) for indices in sample.codes], **sample.metadata}
    text = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
    name = "captions" if "captions" in description else "caption"
    value = json.dumps(description[name], sort_keys=True, ensure_ascii=False).encode()
    prefix = f'"{name}": '.encode()  # quotes inside a string are escaped, so this is a key
    start = text.index(prefix + value) + len(prefix)
    return text, range(start, start + len(value))


def _whole_blocks(size: int) -> int:
    """`size` rounded up to whole tar blocks."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK
