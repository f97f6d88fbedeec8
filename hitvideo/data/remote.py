"""Video shards by URL, through any driver of fsspec (`s3://`, `gs://`, `https://`, `file://`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import fsspec

from hitvideo.errors import ConfigError


@dataclass(frozen=True, order=True)
class RemoteFile:
    """A file at a URL, with the part of `Path`'s interface that reading a shard needs; can be pickled."""

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
        """A seekable file. Raises OSError if the store does not answer."""
        return fsspec.open(self.url, mode).open()


Shard: TypeAlias = Path | RemoteFile


def byte_size(shard: Shard) -> int:
    """Size of a shard in bytes."""
    if isinstance(shard, Path):
        return shard.stat().st_size
    store, path = fsspec.core.url_to_fs(shard.url)
    return int(store.size(path))


def remote_files(pattern: str) -> list[RemoteFile]:
    """The .tar files in a folder or glob given by URL, sorted. Raises ConfigError if they cannot be listed."""
    try:
        store, path = fsspec.core.url_to_fs(pattern)
        found = store.glob(path if "*" in path else f"{path.rstrip('/')}/*.tar")
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"{pattern}: cannot be listed: {error}") from error
    return sorted(RemoteFile(store.unstrip_protocol(name)) for name in found)
