"""The three files that complete a dataset, written once its last shard is done.

    manifest.json    all receipts, totals, hierarchy, video tokenizer and one digest: for people and `hitvideo data verify`
    manifest.pack    all indexes, the file that a trainer opens (see manifest_pack.py)
    rejects.jsonl    every reject of every shard, one line each, with its reason

They are a pure function of receipts, indexes and description, so any task may write them, any number of times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.data.manifest_pack import open_pack, write_pack
from hitvideo.data.token_format import read_index
from hitvideo.errors import ShardError
from hitvideo.files import json_bytes, replace_file

MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"
TOTALS = ("samples_in", "samples_out", "rejected")


def pack_path(manifest: Path) -> Path:
    """The pack next to a manifest."""
    return manifest.with_suffix(".pack")


def write_manifest(out: Path, receipts: Sequence[dict[str, Any]], description: dict[str, Any]) -> Path:
    """Write all three files and return the manifest's path.

    Raises ShardError if an index is missing or damaged, or if the counts do not add up.
    """
    receipts = sorted(receipts, key=lambda receipt: receipt["stem"])
    totals = {name: sum(receipt[name] for receipt in receipts) for name in TOTALS}
    if totals["samples_in"] != totals["samples_out"] + totals["rejected"]:
        raise ShardError(f"{out}: {sum_of(totals)} does not add up: samples were lost or doubled")
    header = {"digest": digest_of(receipts), **totals, **description}
    buckets = max(1, len(description.get("buckets", ())))
    if buckets == 1:  # the receipts know the counts, so that each index is read once
        counts = [np.array([receipt["samples_out"]]) for receipt in receipts]
    else:
        counts = [np.bincount(read_index(out, receipt)["bucket"], minlength=buckets) for receipt in receipts]
    indexes = (read_index(out, receipt) for receipt in receipts)
    stems = [receipt["stem"] for receipt in receipts]
    write_pack(pack_path(out / MANIFEST), header, stems, np.array(counts, np.int64).reshape(-1, buckets), indexes)
    rejects = rejects_of(receipts)
    replace_file(out / REJECTS, "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in rejects))
    replace_file(out / MANIFEST, json_bytes({**header, "shards": receipts}))
    return out / MANIFEST


def is_current(manifest: Path, receipts: Sequence[dict[str, Any]], description: dict[str, Any]) -> bool:
    """Whether the manifest and its pack are those of these receipts, so that they need not be written again."""
    try:
        content = json.loads(manifest.read_bytes())
        header = {name: value for name, value in content.items() if name != "shards"}
        known = {name: header.get(name) for name in description} == json.loads(json.dumps(description))
        same = content["shards"] == sorted(receipts, key=lambda receipt: receipt["stem"])
        return known and same and (manifest.parent / REJECTS).is_file() and open_pack(pack_path(manifest)).header == header
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # ShardError is a ValueError
        return False


def digest_of(receipts: Sequence[dict[str, Any]]) -> str:
    """sha256 over the checksums of all tars and indexes, by which a run recognises its data."""
    return hashlib.sha256("".join(r["tar_sha256"] + r["index_sha256"] for r in receipts).encode()).hexdigest()


def rejects_of(receipts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of rejects.jsonl."""
    return [{"stem": receipt["stem"], **reject} for receipt in receipts for reject in receipt.get("rejects", ())]


def sum_of(counts: dict[str, Any]) -> str:
    """The counts as a sum, for messages."""
    return f"{counts['samples_in']} in = {counts['samples_out']} out + {counts['rejected']} rejected"
