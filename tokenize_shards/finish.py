"""The last step of a job: writing the manifest once every shard has a receipt."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hitvideo.data.manifest import is_current, sum_of, write_manifest
from hitvideo.data.remote import Shard
from hitvideo.data.token_format import read_receipt
from hitvideo.files import locked
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.rejects import RejectShare

log = logging.getLogger(__name__)

_TEMPORARY = re.compile(r"\..+\.(tar|index\.npy|receipt\.json|json|pack|jsonl)\..+-\d+(-[0-9a-f]{8})?")


def finish(out: Path, shards: Sequence[Shard], device_tokenizer: DeviceTokenizer) -> str:
    """Write the manifest if every shard has a receipt, and return one line to print.

    Every task that finds all receipts writes the same manifest. Raises TooManyRejectsError if the videos were rejected.
    """
    receipts = [receipt for shard in shards if (receipt := read_receipt(out, shard.stem))]
    if len(receipts) < len(shards):
        return f"{len(receipts)} of {len(shards)} shards done; the last task to end writes the manifest"
    settings = device_tokenizer.settings.task
    check_share(receipts, settings.most_rejected)
    stems = {shard.stem for shard in shards}
    if foreign := [path for path in out.glob("*.receipt.json") if path.name.removesuffix(".receipt.json") not in stems]:
        log.warning("%s: %d token shards are of other video shards and not in the manifest", out, len(foreign))
    with locked(out / ".lock"):
        path = out / "manifest.json"
        if not is_current(path, receipts, device_tokenizer.described()):
            path = write_manifest(out, receipts, device_tokenizer.described())
        remove_leftovers(out, settings.lease_seconds)
    totals = json.loads(path.read_text())
    return f"{path}: {totals['samples_out']} samples in {len(shards)} token shards; {sum_of(totals)}"


def check_share(receipts: Sequence[dict[str, Any]], most: float) -> None:
    """Raise TooManyRejectsError if more than this share of all videos was rejected, or none gave a sample."""
    share = RejectShare(most)
    for receipt in receipts:
        rejects = receipt.get("rejects", ())
        reasons = Counter(reject["reason"] for reject in rejects)
        share.take(receipt.get("videos", receipt["samples_in"]), reasons, rejects[0]["message"] if rejects else "")
    share.check(at_least=1)


def remove_leftovers(out: Path, stale_seconds: float) -> None:
    """Delete temporary files that killed attempts left: those that nobody has written to for this long."""
    now = time.time()
    for path in out.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and now - path.stat().st_mtime > stale_seconds:
            path.unlink(missing_ok=True)
