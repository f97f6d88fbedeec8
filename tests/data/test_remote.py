"""Reading by URL fetches hardly more than is needed; a store that falters is tried again, and a store that fails is a fault."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from hitvideo.data import remote
from hitvideo.data.remote import Ranges, RemoteFile, Span, byte_size
from hitvideo.data.video_shards import VideoSample, list_shards, read, scan, write_shards
from hitvideo.errors import ConfigError, ShardError
from tests.data.tars import JSON, tar_of


class Counted(LocalFileSystem):  # type: ignore[misc]
    """Local files behind a URL, with counts of what is asked for, and faults to come."""

    cachable = False
    asked: ClassVar[list[tuple[int, int]]] = []
    faults: ClassVar[list[Exception]] = []
    short: ClassVar[list[int]] = []

    def fetched(self, path: str, start: int, end: int) -> bytes:
        if self.faults:
            raise self.faults.pop()
        self.asked.append((start, end))
        with Path(self._strip_protocol(path)).open("rb") as file:
            file.seek(start)
            return file.read(min([end - start, *([self.short.pop()] if self.short else [])]))


class Store(Counted):
    """A driver that can ask for a range."""

    protocol = "counted"

    def cat_file(self, path: str, start: int = 0, end: int = 0, **_: Any) -> bytes:
        return self.fetched(path, start, end)

    def open(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a file object reads ahead")


class Buffered(AbstractBufferedFile):  # type: ignore[misc]
    """The file object of a driver that cannot."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        content: bytes = self.fs.fetched(self.path, start, end)
        return content


class BufferedStore(Counted):
    """A driver that has file objects only."""

    protocol = "buffered"

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **more: Any) -> Any:
        return Buffered(self, path, mode, block_size or 5 << 20, **more)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Counted]]:
    for kind in (Store, BufferedStore):
        fsspec.register_implementation(kind.protocol, kind, clobber=True)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    for calls in (Counted.asked, Counted.faults, Counted.short):
        calls.clear()
    yield Counted
    assert not Counted.faults


def shard_of(folder: Path, videos: int, size: int, protocol: str = "counted") -> RemoteFile:
    samples = (VideoSample(f"k{n}", os.urandom(size + n), "mp4", {"caption": f"c{n}"}) for n in range(videos))
    write_shards(samples, folder, videos)
    (shard,) = list_shards(f"{protocol}://{folder}")
    assert isinstance(shard, RemoteFile)
    return shard


@pytest.mark.parametrize("protocol", ["counted", "buffered"])
@pytest.mark.parametrize(("videos", "size"), [(60, 100_000), (30, 10_000), (5, 2_000_000)])
def test_what_is_fetched(tmp_path: Path, store: type[Counted], videos: int, size: int, protocol: str) -> None:
    shard = shard_of(tmp_path, videos, size, protocol)
    listing = scan(shard)
    assert sum(end - start for start, end in store.asked) < 0.1 * byte_size(shard) + 20_000
    if size >= 100_000:
        assert len(store.asked) <= videos + 3  # one request brings the headers around a small member
    store.asked.clear()
    for number, member in enumerate(listing.samples):
        assert read(shard, member).caption == f"c{number}"
    assert sum(end - start for start, end in store.asked) <= 1.1 * byte_size(shard)
    assert len(store.asked) == videos


def test_what_is_fetched_if_members_are_apart(tmp_path: Path, store: type[Counted]) -> None:
    members = [(f"{key}.json", JSON) for key in "abcdefgh"] + [(f"{key}.mp4", os.urandom(50_000)) for key in "abcdefgh"]
    size = byte_size(tar_of(tmp_path / "x.tar", *members))
    (shard,) = list_shards(f"counted://{tmp_path}")
    for member in scan(shard).samples:
        assert read(shard, member).caption == "a"
    assert sum(end - start for start, end in store.asked) <= 1.2 * size


def test_local_and_remote_list_the_same(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, 20, 3000)
    local, listing = scan(tmp_path / "000000.tar"), scan(shard)
    assert (local.samples, local.bad) == (listing.samples, listing.bad)
    assert [read(shard, member) for member in listing.samples] == [read(tmp_path / "000000.tar", m) for m in local.samples]


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), RuntimeError("a driver's own kind")])
def test_a_store_that_falters_costs_nothing(tmp_path: Path, store: type[Counted], error: Exception) -> None:
    shard = shard_of(tmp_path, 3, 100)
    store.faults += [error, error]
    (member, *_) = scan(shard).samples
    store.faults += [error, error]
    assert read(shard, member).caption == "c0"
    store.short += [10, 20]
    assert read(shard, member).caption == "c0"


def test_a_store_that_fails_is_a_fault(tmp_path: Path, store: type[Counted]) -> None:
    shard = shard_of(tmp_path, 3, 100)
    (member, *_) = scan(shard).samples
    for error in (OSError("reset"), RuntimeError("a driver's own kind")):
        for action in (lambda: scan(shard), lambda: read(shard, member)):
            store.faults += [error] * 3
            with pytest.raises(OSError, match=r"reset|driver"):
                action()
    (tmp_path / "000000.tar").write_bytes((tmp_path / "000000.tar").read_bytes()[:700])
    with pytest.raises(ShardError, match="changed"):
        read(shard, member)


def test_a_local_disk_that_falters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = write_shards([VideoSample("k", b"x" * 5000, "mp4", {"caption": "c"})], tmp_path, 1)
    (member,) = scan(shard).samples
    pread, faults = os.pread, [OSError(5, "EIO")] * 2

    def faltering(handle: int, size: int, offset: int) -> bytes:
        if faults:
            raise faults.pop()
        return pread(handle, min(size, 700), offset)  # and short answers

    monkeypatch.setattr(os, "pread", faltering)
    assert read(shard, member).video == b"x" * 5000
    faults += [OSError(5, "EIO")] * 3
    with pytest.raises(OSError, match="EIO"):
        read(shard, member)


def test_spans_are_read_together_only_if_little_is_between(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(256)) * 100)
    with Ranges(tmp_path / "x") as ranges:
        for spans in ([Span(0, 100), Span(101, 200)], [Span(20_000, 5), Span(0, 5)], [Span(25_000, 5000), Span(3, 0)]):
            content = (tmp_path / "x").read_bytes()
            assert ranges.read_spans(spans) == [content[span.offset : span.end] for span in spans]


def test_urls_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    for pattern in ("nonsense://bucket/x", f"counted://{tmp_path}/none", f"counted://{tmp_path}/*.tar"):
        with pytest.raises(ConfigError) as caught:
            list_shards(pattern)
        assert pattern in str(caught.value)
    (missing,) = list_shards(f"counted://{tmp_path}/missing.tar")
    with pytest.raises(ConfigError, match=r"missing\.tar"):
        byte_size(missing)
