"""Video shards by URL: whatever fsspec has a driver for (`s3://`, `gs://`, `https://`, `file://`), read by range."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import fsspec

from hitvideo.errors import ConfigError


@dataclass(frozen=True, order=True)
class RemoteFile:
    """As much of a `Path` as reading a shard takes; crosses process borders."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".tar")

    def open(self, mode: str) -> Any:
        """A seekable file; OSError where the store does not answer."""
        return fsspec.open(self.url, mode).open()


Shard: TypeAlias = Path | RemoteFile


def byte_size(shard: Shard) -> int:
    """Of the whole file."""
    if isinstance(shard, Path):
        return shard.stat().st_size
    store, path = fsspec.core.url_to_fs(shard.url)
    return int(store.size(path))


def remote_files(pattern: str) -> list[RemoteFile]:
    """The .tar files under a URL of a folder or a glob. Raises ConfigError where there is no driver for it."""
    try:
        store, path = fsspec.core.url_to_fs(pattern)
        found = store.glob(path if "*" in path else f"{path.rstrip('/')}/*.tar")
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"{pattern}: cannot be listed: {error}") from error
    return sorted(RemoteFile(store.unstrip_protocol(name)) for name in found)
