"""Exact byte ranges of shards: local files, or URLs through any driver of fsspec (`s3://`, `gs://`, `https://`, `file://`).

A read that fails is repeated; if it fails every time, that is a fault of the machine or the store (OSError), not of a sample.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import fsspec

from hitvideo.errors import ConfigError

PAUSES = (0.5, 2.0)  # seconds before the second and the third try
# No second try makes these right.
LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
LARGEST_JOINED_READ = 16 << 20
GLOB_SIGNS = "*?["

log = logging.getLogger(__name__)
T = TypeVar("T")


class Span(NamedTuple):
    """Offset and size of a member's content in its tar, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


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


class Ranges:
    """A shard open for reading exact ranges; a context manager. Every read raises OSError after three failed tries."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._handle = -1

    def __enter__(self) -> Ranges:
        if isinstance(self.shard, Path):
            path = self.shard
            self._handle = persistently(lambda: os.open(path, os.O_RDONLY), path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    @cached_property
    def size(self) -> int:
        """Size of the shard in bytes."""
        return os.fstat(self._handle).st_size if self._handle >= 0 else byte_size(self.shard)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`; fewer if the shard ends before."""
        return persistently(lambda: self._once(start, end), self.shard)

    def read_spans(self, spans: Sequence[Span]) -> list[bytes]:
        """The content of several members, in one request if hardly anything is between them."""
        start, end = min(span.offset for span in spans), max(span.end for span in spans)
        needed = sum(span.size for span in spans)
        if end - start > min(LARGEST_JOINED_READ, needed + needed // 8):
            return [self.read(span.offset, span.end) for span in spans]
        content = self.read(start, end)
        return [content[span.offset - start : span.end - start] for span in spans]

    def _once(self, start: int, end: int) -> bytes:
        if isinstance(self.shard, RemoteFile):
            content: bytes = _asked(self.shard.url, lambda store, path: _exactly(store, path, start, end))
        else:
            content = more = os.pread(self._handle, end - start, start)
            while more and len(content) < end - start:
                more = os.pread(self._handle, end - start - len(content), start + len(content))
                content += more
        if len(content) < min(end, self._size_now() if len(content) < end - start else end) - start:
            raise OSError(f"{self.shard}: {len(content)} of the bytes {start} to {end} came")
        return content

    def _size_now(self) -> int:
        self.__dict__.pop("size", None)
        return self.size


def persistently(action: Callable[[], T], what: object) -> T:
    """The action's result; an OSError that may pass is followed by two more tries, after a pause."""
    for pause in PAUSES:
        try:
            return action()
        except LASTING:
            raise
        except OSError as error:
            log.warning("%s: %s; trying again in %g s", what, error, pause)
            time.sleep(pause)
    return action()


def byte_size(shard: Shard) -> int:
    """Size of a shard in bytes. Raises ConfigError if the file does not exist."""
    try:
        if isinstance(shard, Path):
            return shard.stat().st_size
        url = shard.url
        return int(persistently(lambda: _asked(url, lambda store, path: store.size(path)), shard))
    except FileNotFoundError as error:
        raise ConfigError(f"{shard}: no such file") from error


def remote_files(pattern: str) -> list[RemoteFile]:
    """The .tar files at a URL of one file, a folder or a glob, sorted. Raises ConfigError if they cannot be listed.

    A URL that ends in `.tar` is taken as it is; a store such as a web server may be unable to list.
    """
    globbed = any(sign in pattern for sign in GLOB_SIGNS)
    if pattern.endswith(".tar") and not globbed:
        return [RemoteFile(pattern)]

    def listed(store: Any, path: str) -> list[RemoteFile]:
        found = store.glob(path if globbed else f"{path.rstrip('/')}/*.tar")
        return [RemoteFile(store.unstrip_protocol(name)) for name in found if name.endswith(".tar")]

    try:
        return sorted(persistently(lambda: _asked(pattern, listed), pattern))
    except LASTING as error:
        raise ConfigError(f"{pattern}: cannot be listed: {error}") from error


def _exactly(store: Any, path: str, start: int, end: int) -> bytes:
    """A range of a remote file. Drivers that cannot ask for one open a file object, which must not read ahead."""
    if getattr(store.cat_file, "__func__", None) is fsspec.AbstractFileSystem.cat_file:
        with suppress(TypeError), store.open(path, "rb", cache_type="none") as file:
            file.seek(start)
            return bytes(file.read(end - start))
    return bytes(store.cat_file(path, start=start, end=end))


def _asked(url: str, question: Callable[[Any, str], T]) -> T:
    """A store's answer. Drivers have errors of their own kinds; they become OSError."""
    try:
        store, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{url}: cannot be opened: {error}") from error
    try:
        return question(store, path)
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error
