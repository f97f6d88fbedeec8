"""The video shards that a pattern names: a folder, a glob, a list in braces, URLs of these, several joined by `::`."""

from __future__ import annotations

import glob
import logging
import math
import re
from pathlib import Path

from hitvideo.data.captions import UNUSABLE
from hitvideo.data.names import printable
from hitvideo.data.remote import GLOB_SIGNS, Shard, remote_files
from hitvideo.errors import ConfigError

MOST_SHARDS = 10_000_000  # of one list in braces
RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
HOW = "give a folder that holds .tar files, a glob such as 'DIR/*.tar', or a list such as 'DIR/{000000..000009}.tar'"

log = logging.getLogger(__name__)


def list_shards(pattern: str) -> list[Shard]:
    """The .tar files of a pattern; each part of it sorted.

    Raises ConfigError if a part names none, a file is not there or is a folder, or two have the same stem.
    """
    found: list[Shard] = []
    for part in pattern.split("::"):
        for single in _expanded(part):
            found += remote_files(single) if "://" in single else _local_files(single, part) if single else []
            if not found:
                raise ConfigError(f"no video shards at '{printable(single)}'; {HOW}")
    stems: dict[str, Shard] = {}
    for shard in found:
        other = stems.setdefault(shard.stem, shard)
        if UNUSABLE.search(shard.name):
            raise ConfigError(f"{printable(str(shard))}: its name is not UTF-8, so no receipt could name it; rename it")
        if other is not shard and other == shard:
            raise ConfigError(f"{shard} is named twice in {printable(pattern)}")
        if other is not shard:
            raise ConfigError(f"{other} and {shard} have the same name, so their token shards would too; rename one")
    return found


def _expanded(part: str) -> list[str]:
    """The patterns that a pattern with braces is short for."""
    if "{" not in part or Path(part).exists():
        return [part]
    from braceexpand import braceexpand  # what webdataset expands with

    # The library makes the whole list before it gives the first, so the size of ranges is checked before.
    sizes = [abs(int(last) - int(first)) + 1 for first, last in RANGE.findall(part)]
    if math.prod(sizes) > MOST_SHARDS:
        raise ConfigError(f"{printable(part)}: more than {MOST_SHARDS} shards")
    try:
        return list(braceexpand(part))
    except ValueError as error:
        raise ConfigError(f"{printable(part)}: {error}") from error


def _local_files(pattern: str, part: str) -> list[Shard]:
    path = Path(pattern)
    if path.is_dir():
        beside = sorted(path.iterdir())
    elif path.is_symlink() or path.exists() or not any(sign in pattern for sign in GLOB_SIGNS):
        beside = [path]
        if not path.exists():
            what = "a broken link" if path.is_symlink() else "not there"
            of = f" (of {printable(part)})" if part != pattern else ""
            raise ConfigError(f"no video shards at {printable(pattern)}{of}: it is {what}; {HOW}")
    else:
        beside = sorted(map(Path, glob.glob(pattern, recursive=True)))
    beside = [file for file in beside if not file.name.startswith(".")]
    found = [file for file in beside if file.name.lower().endswith(".tar")]
    for file in found:
        if not file.is_file():
            what = "a folder" if file.is_dir() else "a broken link" if file.is_symlink() else "not a file"
            raise ConfigError(f"{printable(str(file))} is {what}, not a video shard; remove it, or name the shards by a glob")
    compressed = [file for file in beside if file.name.lower().endswith(COMPRESSED)]
    if compressed and not found:
        some = f"{printable(str(compressed[0]))} is compressed"
        raise ConfigError(f"{some}: decompress it to a plain .tar, because samples are read at their offsets")
    if not found:
        deeper = " (its folders hold some: add '/**/*.tar')" if path.is_dir() and any(path.glob("*/**/*.tar")) else ""
        raise ConfigError(f"no video shards at {printable(pattern)}{deeper}; {HOW}")
    if compressed:
        log.warning("%s: %d compressed tars are passed over, such as %s", pattern, len(compressed), compressed[0].name)
    return list(found)
