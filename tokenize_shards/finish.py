"""The beginning and the end of a job: what its output directory belongs to, and the manifest once every shard is there."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hitvideo.config import ConfigError
from hitvideo.data.manifest import sum_of, write_manifest
from hitvideo.data.remote import Shard
from hitvideo.data.token_format import json_bytes, locked, shard_paths, write_whole
from tokenize_shards.encoder import Encoder
from tokenize_shards.leases import owner

log = logging.getLogger(__name__)
CONTRACT = "contract.json"


def settle_contract(out: Path, encoder: Encoder) -> None:
    """The first task writes down what decides the content of all shards; the others, and later runs, must agree.

    Raises ConfigError where `out` holds token shards of another tokenizer, other clips or limits.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONTRACT
    content = {"contract": encoder.contract, "video_tokenizer": encoder.fingerprint, **encoder.recipe.described()}
    content |= {"dtype": str(encoder.dtype).removeprefix("torch."), "chunk": encoder.settings.data.chunk}
    temporary = out / f".{CONTRACT}.{owner()}"
    write_whole(temporary, json_bytes(content))
    try:
        os.link(temporary, path)
    except FileExistsError:
        found = json.loads(path.read_text())
        if found["contract"] != encoder.contract:
            keys = [key for key in content if content[key] != found.get(key) and key != "contract"]
            raise ConfigError(
                f"{out} was made with another tokenizer, clip or limits ({', '.join(keys)} differ: contract "
                f"{found['contract']}, now {encoder.contract}); name an empty data.out, or remove the old shards"
            ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_receipt(out: Path, stem: str) -> dict[str, Any] | None:
    path = shard_paths(out, stem)[2]
    receipt: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return receipt


def finish(out: Path, shards: Sequence[Shard], encoder: Encoder, stale_seconds: float) -> str:
    """Write the manifest if every shard has its receipt; whichever task sees that first or again writes the same one.

    Returns one line for people.
    """
    receipts = [receipt for shard in shards if (receipt := read_receipt(out, shard.stem))]
    if len(receipts) < len(shards):
        return f"{len(receipts)} of {len(shards)} shards done; the manifest is written when the last task ends"
    with locked(out / ".lock"):
        path = write_manifest(out, receipts, encoder.described())
        remove_leftovers(out, stale_seconds)
    totals = json.loads(path.read_text())
    return f"{path}: {totals['samples_out']} samples in {len(shards)} token shards; {sum_of(totals)}"


def remove_leftovers(out: Path, stale_seconds: float) -> None:
    """Temporary files of killed attempts: of processes of this machine that are no more, of others when they are old."""
    now = time.time()
    for path in out.glob(".*.*"):
        host, _, pid = path.name.rpartition(".")[2].rpartition("-")
        if not pid.isdigit() or not path.is_file():
            continue
        dead = host == socket.gethostname() and not Path(f"/proc/{pid}").exists()
        if dead or now - path.stat().st_mtime > stale_seconds:
            path.unlink(missing_ok=True)
