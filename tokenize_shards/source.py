"""What a job reads and where it writes: the identity of a video shard, and an output that is never an input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hitvideo.data.remote import Ranges, Shard
from hitvideo.data.token_format import read_receipt
from hitvideo.errors import ConfigError, ShardError
from hitvideo.files import locked
from tokenize_shards.contract import CONTRACT

_ENDS = 1 << 20


def identity(shard: Shard) -> dict[str, Any]:
    """Size of a shard, and the sha256 of its first and last MiB: what a receipt keeps of its source. Raises OSError."""
    with Ranges(shard) as ranges:
        digest = hashlib.sha256(ranges.read(0, _ENDS))
        if ranges.size > _ENDS:
            digest.update(ranges.read(max(_ENDS, ranges.size - _ENDS), ranges.size))
        return {"source_bytes": ranges.size, "source_ends": digest.hexdigest()}


def refuse_changed(shards: Sequence[Shard], out: Path, retry_rejects: bool = False) -> None:
    """Raise ConfigError if a shard that has a receipt is not the one that was tokenized.

    With `retry_rejects`, a shard that has some may have changed: it is done again.
    """
    changed = []
    for shard in shards:
        receipt = read_receipt(out, shard.stem)
        if receipt and retry_rejects and receipt["rejected"]:
            continue
        known = {key: receipt[key] for key in ("source_bytes", "source_ends") if key in receipt} if receipt else {}
        if known and known != identity(shard):
            changed.append(shard.stem)
    if changed:
        listed = ", ".join(f"{stem}.receipt.json" for stem in changed[:10]) + (" …" if len(changed) > 10 else "")
        raise ConfigError(
            f"data.out {out}: {len(changed)} of its token shards were made of other videos than data.video_shards has under "
            f"these names now; set data.out to a new directory, or delete {listed} to do them again"
        )


def prepare_output(shards: Sequence[Shard], out: Path) -> None:
    """Make the output directory. Raises ConfigError if it holds a source, tars of somebody else, or cannot be written."""
    real = out.resolve()
    for shard in shards:
        path = _local(shard)
        if path and (real in path.absolute().parents or real in path.resolve().parents):
            raise ConfigError(f"data.out {out} holds video shard {shard}, which its token shard would replace; set another")
    if not (out / CONTRACT).exists() and (tar := next(out.glob("*.tar"), None)):
        raise ConfigError(f"data.out {out} has {tar.name}, but no {CONTRACT} of this job; set an empty directory")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"data.out {out} cannot be written: {error.strerror}; set another directory") from error
    try:
        with locked(out / ".lock"):
            pass
    except OSError as error:
        raise ConfigError(
            f"data.out {out}: its file system has no file locks ({error.strerror}), which commits need; set a directory on "
            "another, or mount this one with them (Lustre: -o flock)"
        ) from error


def unchanged(shard: Shard, known: dict[str, Any]) -> None:
    """Raise ShardError if a shard is not the one whose identity was taken."""
    if identity(shard) != known:
        raise ShardError(f"{shard} was changed while it was read")


def _local(shard: Shard) -> Path | None:
    """A shard's path on this machine, also if it is named by a file:// URL; None if it is remote."""
    if isinstance(shard, Path):
        return shard
    url = urlsplit(shard.url)
    return Path(unquote(url.path)) if url.scheme in ("file", "local") else None
