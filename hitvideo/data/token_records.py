"""One sample of a token shard as a record: the bytes of its two tar members, and back.

    header │ KEY.codes.npy: one flat array of all levels' indices, coarsest first │ header │ KEY.json: caption, grids, …

The tar is USTAR with names in UTF-8, written by Python's tarfile. (webdataset's TarWriter opens the tar in tarfile's default
format, which puts two more headers in front of a name that is not ASCII.)
"""

from __future__ import annotations

import io
import json
import math
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.data.names import split_name
from hitvideo.errors import ShardError

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
    sizes = [math.prod(grid) for grid in grids]
    if sum(sizes) != flat.size or min(sizes, default=0) < 0:
        raise ShardError(f"{flat.size} indices do not fill the grids {str([list(grid) for grid in grids])[:200]}")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(tuple(grid)) for part, grid in zip(parts, grids, strict=True)]


def record_of(sample: TokenSample) -> tuple[bytes, Any]:
    """A sample's record, and its index entry without the offset. Raises ShardError if key or caption cannot be written."""
    flat = pack_codes(sample.codes)
    codes = npy_bytes(flat)
    assert len(codes) == NPY_HEADER + flat.nbytes
    try:
        text, caption = _description(sample)
        members = _member(f"{sample.key}.codes.npy", codes), _member(f"{sample.key}.json", text)
    except (ValueError, tarfile.TarError) as error:  # a lone surrogate, or a name beyond the header's field
        raise ShardError(f"sample {sample.key!r:.200} cannot be written: {error}") from error
    record = b"".join(members)
    text_at = len(members[0]) + TAR_BLOCK + caption.start
    crc32 = zlib.crc32(record)
    entry = (0, len(record), crc32, flat.size, text_at, len(caption), flat.itemsize, sample.bucket)
    return record, np.array(entry, INDEX_DTYPE)


def parse_sample(record: bytes, bucket: int = 0) -> TokenSample:
    """One sample from the bytes that its index entry gives. Raises ShardError if they are not a sample's record."""
    try:
        members, keys = {}, set()
        for name, content in _members(record):
            key, extension = split_name(name) or ("", "")
            members[extension] = content
            keys.add(key)
        if keys == {""} or len(keys) != 1 or set(members) != {"codes.npy", "json"}:
            raise ShardError("it is not KEY.codes.npy and KEY.json of one key")
        description = json.loads(members["json"])
        codes = unpack_codes(_flat(members["codes.npy"]), description.pop("grids"))
        caption = description.pop("caption")
        if not isinstance(caption, str):
            raise ShardError("its caption is not a text")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, tarfile.TarError) as error:
        raise ShardError(f"a record of {len(record)} bytes cannot be parsed: {error!r:.200}") from error
    return TokenSample(keys.pop(), codes, caption, description, bucket)


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """The content of a .npy file."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def npy_header(dtype: npt.DTypeLike, count: int) -> bytes:
    """What precedes a flat array's content in a .npy file. Readers compare it; numpy's own parser trusts a file's claims."""
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))  # type: ignore[no-untyped-call]
    facts = {"descr": descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(out, facts)  # type: ignore[no-untyped-call]
    return out.getvalue()


def _flat(member: bytes) -> npt.NDArray[Any]:
    """The array of a .npy member. Raises ShardError if it is not one of uint16 or uint32 that fills the member."""
    for dtype in (np.uint16, np.uint32):
        count = (len(member) - NPY_HEADER) // np.dtype(dtype).itemsize
        header = npy_header(dtype, count) if count >= 0 else b""
        if header and member.startswith(header) and len(member) == len(header) + count * np.dtype(dtype).itemsize:
            return np.frombuffer(member, dtype, count, NPY_HEADER).copy()
    raise ShardError(f"its {len(member)} bytes of codes are not a flat array of uint16 or uint32")


def _description(sample: TokenSample) -> tuple[bytes, range]:
    """A sample's JSON, and the bytes in it that hold the value of `captions`, else of `caption`."""
    description = {"caption": sample.caption, "grids": [list(indices.shape) for indices in sample.codes], **sample.metadata}
    text = json.dumps(description, sort_keys=True, ensure_ascii=False).encode()
    name = "captions" if "captions" in description else "caption"
    value = json.dumps(description[name], sort_keys=True, ensure_ascii=False).encode()
    prefix = f'"{name}": '.encode()  # quotes inside a string are escaped, so this is a key
    start = text.index(prefix + value) + len(prefix)
    return text, range(start, start + len(value))


def _member(name: str, content: bytes) -> bytes:
    """Header and padded content of a tar member."""
    info = tarfile.TarInfo(name)
    info.size, info.uname, info.gname = len(content), "root", "root"
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    return header + content + bytes(_whole_blocks(len(content)) - len(content))


def _members(record: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(record):
        info = tarfile.TarInfo.frombuf(record[at : at + TAR_BLOCK], "utf-8", "strict")
        start = at + TAR_BLOCK
        if not 0 <= info.size <= len(record) - start:
            raise ShardError(f"a member claims {info.size} bytes")
        yield info.name, record[start : start + info.size]
        at = start + _whole_blocks(info.size)


def _whole_blocks(size: int) -> int:
    """`size` rounded up to whole tar blocks."""
    return -(-size // TAR_BLOCK) * TAR_BLOCK
