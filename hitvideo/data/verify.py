"""Check a dataset against its manifest, receipts and checksums; one line per mismatch."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.data.manifest import REJECTS, TOTALS, digest_of, pack_path, rejects_of, sum_of
from hitvideo.data.manifest_pack import Pack, open_pack
from hitvideo.data.token_format import CODES_AT, pack_codes, parse_sample, read_index, shard_paths
from hitvideo.errors import ConfigError, ShardError
from hitvideo.files import sha256


def verify(manifest: Path) -> Iterator[str]:
    """Every mismatch as a line: totals, receipts, checksums, records, codes and captions of samples, pack, rejects.

    Raises ConfigError if there is no manifest.
    """
    content = _read(manifest)
    receipts: list[dict[str, Any]] = content.pop("shards")
    if any(content[name] != sum(receipt[name] for receipt in receipts) for name in TOTALS):
        yield f"{manifest}: its totals ({sum_of(content)}) are not the sums of its receipts"
    if content["digest"] != digest_of(receipts):
        yield f"{manifest}: its digest does not match its receipts"
    for receipt in receipts:
        yield from _verify_shard(manifest.parent, receipt, content)
    yield from _verify_pack(manifest, content, receipts)
    rejects = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in rejects_of(receipts))
    path = manifest.with_name(REJECTS)
    if not path.is_file() or path.read_text() != rejects:
        yield f"{path}: differs from the rejects in the receipts"


def _read(manifest: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(manifest.read_text())
        assert {"digest", "shards", *TOTALS} <= content.keys()
    except OSError as error:
        raise ConfigError(f"{manifest}: cannot be read: {error}") from error
    except (ValueError, AssertionError, AttributeError) as error:
        raise ConfigError(f"{manifest}: not a manifest of tokenize_shards: {error!r}") from error
    return content


def _verify_shard(folder: Path, receipt: dict[str, Any], manifest: dict[str, Any]) -> Iterator[str]:
    tar, index_path, receipt_path = shard_paths(folder, receipt["stem"])
    if receipt["samples_in"] != receipt["samples_out"] + receipt["rejected"]:
        yield f"{tar}: {receipt['samples_in']} in ≠ {receipt['samples_out']} out + {receipt['rejected']} rejected"
    if "rejects" in receipt and len(receipt["rejects"]) != receipt["rejected"]:
        yield f"{receipt_path}: {receipt['rejected']} rejected, {len(receipt['rejects'])} listed"
    if not receipt_path.is_file() or json.loads(receipt_path.read_text()) != receipt:
        yield f"{receipt_path}: missing, or differs from the manifest"
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
        with tar.open("rb") as file:
            for number, entry in enumerate(index):
                file.seek(int(entry["offset"]))
                record = file.read(int(entry["length"]))
                if zlib.crc32(record) != entry["crc32"]:
                    yield f"{tar}: sample {number} is damaged ({len(record)} bytes read)"
                    continue
                key, fault = _fault_of(record, entry, manifest)
                if fault or key in keys:
                    yield f"{tar}: sample {number}, {key}: {fault or 'the key occurs twice'}"
                keys.add(key)


def _fault_of(record: bytes, entry: Any, manifest: dict[str, Any]) -> tuple[str, str]:
    """A sample's key, and what is wrong with its content or its index entry; empty if nothing is."""
    try:
        sample = parse_sample(record)
    except (ShardError, ValueError, KeyError) as error:
        return "?", f"cannot be parsed: {error}"
    buckets = manifest.get("buckets") or [manifest]
    grids = buckets[int(entry["bucket"])]["grids"] if entry["bucket"] < len(buckets) else None
    if [list(indices.shape) for indices in sample.codes] != grids:
        return sample.key, f"its grids are not those of bucket {entry['bucket']}"
    for level, (indices, facts) in enumerate(zip(sample.codes, manifest["hierarchy"]["levels"], strict=True)):
        if int(indices.max()) >> facts["num_bits"]:
            return sample.key, f"level {level} holds {indices.max()}, its codebook has {1 << facts['num_bits']}"
    width = np.uint16 if entry["width"] == 2 else np.uint32
    flat = np.frombuffer(record, width, int(entry["tokens"]), CODES_AT)
    start = int(entry["caption"])
    expected = json.dumps(sample.metadata.get("captions", sample.caption), sort_keys=True, ensure_ascii=False).encode()
    found = record[start : start + int(entry["caption_bytes"])]
    if not np.array_equal(flat, pack_codes(sample.codes)) or found != expected:
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
    elif [stem.decode() for stem in pack.stems] != [receipt["stem"] for receipt in receipts]:
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
