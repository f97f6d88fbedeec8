"""The files of a token shard, which tokenize_shards writes for the video shard of the same stem.

    000012.tar             a byte-reproducible webdataset tar: KEY.codes.npy, KEY.json for every sample, by bucket and key
    000012.index.npy       offset and crc32 of every sample, and the places of codes and captions within it
    000012.receipt.json    counts, sha256 of both, the tokenizer's fingerprint, rejects with reasons: committed last

Counts and checksums are outside the tar because a tar that is cut between two members loses samples without any error.
A sample's record, its bytes in the tar, is made and read by `token_records`.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.data.token_records import INDEX_DTYPE, TAR_BLOCK, TokenSample, npy_bytes, npy_header, parse_sample, record_of
from hitvideo.errors import ShardError
from hitvideo.files import json_bytes, locked, sha256, write_synced

_IN_MEMORY = 64 << 20
_COUNTS = ("samples_in", "samples_out", "rejected")


class Records:
    """The records of one shard until it is written: up to 64 MiB in memory, beyond that in an unnamed file in `out`."""

    def __init__(self, out: Path, samples: Iterable[TokenSample] = ()) -> None:
        self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(out))  # noqa: SIM115
        self._size = 0
        self._rows: list[tuple[int, str, int, Any]] = []  # bucket, key, place in the spool, index entry
        for sample in samples:
            self.add(sample)

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self) -> set[str]:
        return {key for _, key, _, _ in self._rows}

    def add(self, sample: TokenSample) -> None:
        """Make the sample's record and parse it back. Raises ShardError if it does not give the same sample."""
        record, entry = record_of(sample)
        parsed = parse_sample(record)
        codes = len(parsed.codes) == len(sample.codes) and all(map(np.array_equal, parsed.codes, sample.codes))
        if not codes or (parsed.key, parsed.caption) != (sample.key, sample.caption):
            raise ShardError(f"the record of sample {sample.key!r} does not give it back; please report its key and caption")
        self._rows.append((sample.bucket, sample.key, self._size, entry))
        self._spool.seek(self._size)
        self._spool.write(record)
        self._size += len(record)

    def write(self, path: Path) -> npt.NDArray[Any]:
        """Write the tar, sorted by bucket and key, and return its index. The same samples give the same bytes.

        Raises ShardError if the file does not hold what was written.
        """
        rows = sorted(self._rows, key=lambda row: row[:2])
        index = np.array([row[3] for row in rows], INDEX_DTYPE)
        index["offset"][1:] = np.cumsum(index["length"][:-1], dtype=np.uint64)
        with path.open("wb") as file:
            for (_, _, place, _), entry in zip(rows, index, strict=True):
                self._spool.seek(place)
                file.write(self._spool.read(int(entry["length"])))
            end = file.tell() + 2 * TAR_BLOCK
            file.write(bytes(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE - file.tell()))
            file.flush()
            os.fsync(file.fileno())
        with path.open("rb") as file:
            for entry in index:
                if zlib.crc32(file.read(int(entry["length"]))) != entry["crc32"]:
                    raise ShardError(f"{path}: the bytes at {entry['offset']} are not those that were written")
        return index

    def close(self) -> None:
        """Give up the memory or the file."""
        self._spool.close()


def read_index(out: Path, receipt: dict[str, Any]) -> npt.NDArray[Any]:
    """A shard's index. Raises ShardError if it cannot be read or is not that of the receipt's samples."""
    path, count = shard_paths(out, receipt["stem"])[1], receipt["samples_out"]
    header = npy_header(INDEX_DTYPE, count)
    try:
        size = path.stat().st_size
        right = size == len(header) + count * INDEX_DTYPE.itemsize
        content = path.read_bytes() if right else b""
    except OSError as error:
        raise ShardError(f"{path}: cannot read the index: {error}") from error
    if not right or not content.startswith(header):
        found = max(0, size - len(header)) // INDEX_DTYPE.itemsize
        raise ShardError(f"{path}: has {size} bytes, room for {found} samples; an index of its receipt's has {count}")
    return np.frombuffer(content, INDEX_DTYPE, count, len(header))


def shard_paths(out: Path, stem: str) -> tuple[Path, Path, Path]:
    """Paths of a token shard's tar, index and receipt."""
    return out / f"{stem}.tar", out / f"{stem}.index.npy", out / f"{stem}.receipt.json"


def commit(
    out: Path,
    stem: str,
    samples: Records | Iterable[TokenSample],
    receipt: dict[str, Any],
    attempt: str,
    replace: bool = False,
) -> bool:
    """Write tar, index and receipt, unless another task committed the shard first; returns whether this one did.

    All three are written under temporary names of this `attempt`. Under a lock, tar and index are then renamed and the
    receipt is linked last, because `os.link` fails if there is one already and a rename would replace it. A kill at any
    moment leaves either no receipt, and the shard is done again, or a correct one. `replace`: first remove the shard's
    receipt, for a second pass over its rejects.
    """
    tar, index_path, receipt_path = shard_paths(out, stem)
    temporary = [out / f".{path.name}.{attempt}" for path in (tar, index_path, receipt_path)]
    records = samples if isinstance(samples, Records) else Records(out, samples)
    try:
        index = records.write(temporary[0])
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
        records.close()
        for path in temporary:
            path.unlink(missing_ok=True)


def read_receipt(out: Path, stem: str) -> dict[str, Any] | None:
    """A shard's receipt, or None if it has none. Raises ShardError if it is damaged."""
    path = shard_paths(out, stem)[2]
    try:
        receipt = json.loads(path.read_bytes())
        check_receipt(receipt)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: damaged receipt: {str(error)[:200]}; delete it to do the shard again") from error
    if receipt["stem"] != stem:
        raise ShardError(f"{path}: is the receipt of '{str(receipt['stem'])[:100]}'; delete it to do the shard again")
    return receipt  # type: ignore[no-any-return]


def check_receipt(receipt: Any) -> None:
    """Raise ValueError if a receipt lacks what its readers need: a plain stem, counts that add up, two checksums."""
    if not isinstance(receipt, dict):
        raise ValueError("it is not an object")
    stem, counts = receipt.get("stem"), [receipt.get(name) for name in _COUNTS]
    if not isinstance(stem, str) or not stem or "/" in stem or "\0" in stem:
        raise ValueError("its stem is not a file's name")
    if not all(isinstance(count, int) and 0 <= count < 1 << 53 for count in counts):
        raise ValueError(f"{', '.join(_COUNTS)} are not all counts")
    if not all(isinstance(receipt.get(name), str) for name in ("tar_sha256", "index_sha256")):
        raise ValueError("a checksum is missing")
    rejects = receipt.get("rejects", [])
    if not isinstance(rejects, list) or not all(isinstance(reject, dict) for reject in rejects):
        raise ValueError("rejects is not a list of objects")
