"""The last step of a job: writing the manifest once every shard has a receipt."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from hitvideo.data.manifest import sum_of, write_manifest
from hitvideo.data.remote import Shard
from hitvideo.data.token_format import read_receipt
from hitvideo.files import locked
from tokenize_shards.encoder import DeviceTokenizer

log = logging.getLogger(__name__)


def finish(out: Path, shards: Sequence[Shard], device_tokenizer: DeviceTokenizer, stale_seconds: float) -> str:
    """Write the manifest if every shard has a receipt, and return one line to print.

    Every task that finds all receipts writes the same manifest.
    """
    receipts = [receipt for shard in shards if (receipt := read_receipt(out, shard.stem))]
    if len(receipts) < len(shards):
        return f"{len(receipts)} of {len(shards)} shards done; the last task to end writes the manifest"
    with locked(out / ".lock"):
        path = write_manifest(out, receipts, device_tokenizer.described())
        remove_leftovers(out, stale_seconds)
    totals = json.loads(path.read_text())
    return f"{path}: {totals['samples_out']} samples in {len(shards)} token shards; {sum_of(totals)}"


def remove_leftovers(out: Path, stale_seconds: float) -> None:
    """Delete temporary files of killed attempts: if the process on this host is gone, or the file is stale."""
    now = time.time()
    for path in out.glob(".*.*"):
        host, _, pid = path.name.rpartition(".")[2].rpartition("-")
        if not pid.isdigit() or not path.is_file():
            continue
        dead = host == socket.gethostname() and not Path(f"/proc/{pid}").exists()
        if dead or now - path.stat().st_mtime > stale_seconds:
            path.unlink(missing_ok=True)
