"""Check a dataset against its manifest, receipts and checksums; one line per mismatch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.data.manifest import REJECTS, TOTALS, digest_of, pack_path, rejects_of, sum_of
from hitvideo.data.manifest_pack import Pack, open_pack
from hitvideo.data.names import printable
from hitvideo.data.token_format import check_receipt, read_index, read_receipt, shard_paths
from hitvideo.data.token_records import CODES_AT, pack_codes, parse_sample
from hitvideo.errors import ConfigError, ShardError
from hitvideo.files import sha256
from hitvideo.processes import shared


def verify(manifest: Path, jobs: int = 1, progress: Callable[[int], object] = lambda _: None) -> Iterator[str]:
    """Every mismatch as a line: totals, receipts, checksums, records, codes and captions of samples, pack, rejects.

    `jobs` processes share the shards; `progress` is called with 1 after each. Raises ConfigError if the manifest is missing.
    """
    content = _read(manifest)
    receipts: list[dict[str, Any]] = content.pop("shards")
    if any(content[name] != sum(receipt[name] for receipt in receipts) for name in TOTALS):
        yield f"{manifest}: its totals ({sum_of(content)}) are not the sums of its receipts"
    if content["digest"] != digest_of(receipts):
        yield f"{manifest}: its digest does not match its receipts"
    check = partial(_verify_shard, manifest.parent, description=content)
    for faults in shared(check, receipts, jobs, progress):
        yield from faults
    yield from _verify_pack(manifest, content, receipts)
    rejects = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in rejects_of(receipts))
    path = manifest.with_name(REJECTS)
    if not path.is_file() or path.read_bytes() != rejects.encode(errors="backslashreplace"):
        yield f"{path}: differs from the rejects in the receipts"


def shards_of(manifest: Path) -> int:
    """The number of a manifest's shards. Raises ConfigError."""
    return len(_read(manifest)["shards"])


def _read(manifest: Path) -> dict[str, Any]:
    """The content of a manifest with everything that its readers rely on. Raises ConfigError."""
    try:
        content: dict[str, Any] = json.loads(manifest.read_bytes())
        if not isinstance(content, dict) or not {"digest", "shards", *TOTALS} <= content.keys():
            raise ValueError("digest, shards or totals are missing")
        if not isinstance(content["shards"], list):
            raise ValueError("shards is not a list")
        for receipt in content["shards"]:
            check_receipt(receipt)
    except OSError as error:
        raise ConfigError(f"{manifest}: cannot be read: {error.strerror}; give the manifest.json of a dataset") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{manifest}: not a manifest of tokenize_shards: {str(error)[:200]}") from error
    return content


def _verify_shard(folder: Path, receipt: dict[str, Any], description: dict[str, Any]) -> list[str]:
    return list(_faults_of_shard(folder, receipt, description))


def _faults_of_shard(folder: Path, receipt: dict[str, Any], description: dict[str, Any]) -> Iterator[str]:
    tar, index_path, receipt_path = shard_paths(folder, receipt["stem"])
    if receipt["samples_in"] != receipt["samples_out"] + receipt["rejected"]:
        yield f"{tar}: {receipt['samples_in']} in ≠ {receipt['samples_out']} out + {receipt['rejected']} rejected"
    if "rejects" in receipt and len(receipt["rejects"]) != receipt["rejected"]:
        yield f"{receipt_path}: {receipt['rejected']} rejected, {len(receipt['rejects'])} listed"
    try:
        if read_receipt(folder, receipt["stem"]) != receipt:
            yield f"{receipt_path}: missing, or differs from the manifest"
    except ShardError as error:
        yield str(error)
    for path, expected in ((tar, receipt["tar_sha256"]), (index_path, receipt["index_sha256"])):
        if not path.is_file():
            yield f"{path}: missing"
        elif sha256(path) != expected:
            yield f"{path}: its sha256 is not the receipt's"
    try:
        index = read_index(folder, receipt)
    except ShardError as error:
        yield str(error)
        return
    if tar.is_file():
        keys = set()
        size = tar.stat().st_size
        with tar.open("rb") as file:
            for number, entry in enumerate(index):
                offset, length = int(entry["offset"]), int(entry["length"])
                if offset + length > size:
                    yield f"{tar}: sample {number} is beyond the end of the file"
                    continue
                file.seek(offset)
                record = file.read(length)
                if zlib.crc32(record) != entry["crc32"]:
                    yield f"{tar}: sample {number} is damaged ({len(record)} bytes read)"
                    continue
                key, fault = _fault_of(record, entry, description)
                if fault or key in keys:
                    yield f"{tar}: sample {number}, {printable(key)}: {fault or 'the key occurs twice'}"
                keys.add(key)


def _fault_of(record: bytes, entry: Any, manifest: dict[str, Any]) -> tuple[str, str]:
    """A sample's key, and what is wrong with its content or its index entry; empty if nothing is."""
    try:
        sample = parse_sample(record)
    except ShardError as error:
        return "?", f"cannot be parsed: {error}"
    try:
        buckets = manifest.get("buckets") or [manifest]
        grids = buckets[int(entry["bucket"])]["grids"] if entry["bucket"] < len(buckets) else None
        bits = [int(level["num_bits"]) for level in manifest["hierarchy"]["levels"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return sample.key, f"the manifest's grids or levels are damaged: {error!r:.200}"
    if [list(indices.shape) for indices in sample.codes] != grids or len(bits) != len(sample.codes):
        return sample.key, f"its grids are not those of bucket {entry['bucket']}"
    for level, (indices, num_bits) in enumerate(zip(sample.codes, bits, strict=True)):
        if int(indices.max(initial=0)) >> max(0, min(num_bits, 63)):
            return sample.key, f"level {level} holds {indices.max()}, its codebook has 2^{num_bits} codes"
    width = np.uint16 if entry["width"] == 2 else np.uint32
    tokens, start = int(entry["tokens"]), int(entry["caption"])
    fits = CODES_AT + tokens * np.dtype(width).itemsize <= len(record)
    flat = np.frombuffer(record, width, tokens, CODES_AT) if fits else None
    expected = json.dumps(sample.metadata.get("captions", sample.caption), sort_keys=True, ensure_ascii=False).encode()
    found = record[start : start + int(entry["caption_bytes"])]
    if flat is None or not np.array_equal(flat, pack_codes(sample.codes)) or found != expected:
        return sample.key, "its index entry gives other places for codes or caption"
    return sample.key, ""


def _verify_pack(manifest: Path, header: dict[str, Any], receipts: list[dict[str, Any]]) -> Iterator[str]:
    path = pack_path(manifest)
    try:
        pack = open_pack(path)
    except (ShardError, ConfigError) as error:
        yield str(error)
        return
    if pack.header != header:
        yield f"{path}: belongs to another manifest"
    elif [stem.decode(errors="replace") for stem in pack.stems] != [receipt["stem"] for receipt in receipts]:
        yield f"{path}: has other shards than the manifest"
    else:
        for number, receipt in enumerate(receipts):
            if not _same_entries(pack, number, manifest.parent, receipt):
                yield f"{path}: its entries of {receipt['stem']} differ from the shard's index"


def _same_entries(pack: Pack, number: int, folder: Path, receipt: dict[str, Any]) -> bool:
    try:
        index = read_index(folder, receipt)
    except ShardError:
        return True  # reported already
    places = [(int(starts[number]), int(starts[number + 1])) for starts in pack.starts]
    return b"".join(pack.bucket(b)[slice(*place)].tobytes() for b, place in enumerate(places)) == index.tobytes()
