"""Reads that a faltering store does not hurt, and one bounded pool of open files."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hitvideo.data import handles
from hitvideo.data.handles import FilePool
from hitvideo.errors import ConfigError, ShardError

CONTENT = bytes(range(256)) * 4


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(CONTENT)
    return path


def failing(function: Callable[..., Any], number: int, times: int) -> Callable[..., Any]:
    """The function, which first fails some times."""
    left = iter(range(times))

    def fails(*arguments: Any) -> Any:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number))
        return function(*arguments)

    return fails


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("name", ["open", "pread"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR])
def test_a_fault_that_passes_costs_nothing(file: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    pool, before = FilePool(4), open_files()
    monkeypatch.setattr(os, name, failing(getattr(os, name), number, 3))
    assert pool.read("a", lambda: file, 100, 200) == CONTENT[200:300]
    assert open_files() == before + 1, "the handles that failed are closed"


@pytest.mark.parametrize("name", ["open", "pread"])
def test_a_fault_that_stays_is_named(file: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pool, before = FilePool(4), open_files()
    monkeypatch.setattr(os, name, failing(getattr(os, name), errno.EIO, 4))
    with pytest.raises(ShardError, match=r"a\.tar: .*Input/output error"):
        pool.read("a", lambda: file, 100, 200)
    assert open_files() == before
    assert pool.read("a", lambda: file, 100, 200) == CONTENT[200:300]


def test_what_is_not_there_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def opens(path: Path, _flags: int) -> int:
        asked.append(path)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(os, "open", opens)
    with pytest.raises(ShardError, match=r"b\.tar"):
        FilePool(4).read("b", lambda: tmp_path / "b.tar", 1, 0)
    assert len(asked) == 1


@pytest.mark.parametrize("at_most", [1, 7, 99])
def test_short_reads_are_read_on(file: Path, monkeypatch: pytest.MonkeyPatch, at_most: int) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, length, offset: pread(handle, min(length, at_most), offset))
    assert FilePool(4).read("a", lambda: file, 500, 300) == CONTENT[300:800]


@pytest.mark.parametrize(("length", "offset"), [(1 << 40, 1000), (5, 1024), (1 << 32, 1 << 62), (1, (1 << 64) - 1), (0, 3)])
def test_no_more_is_asked_for_than_the_file_has(file: Path, length: int, offset: int) -> None:
    """An index that lies about a length takes no memory."""
    assert FilePool(4).read("a", lambda: file, length, offset) == CONTENT[offset : offset + length]


def test_too_many_open_files_is_not_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(os.open, errno.EMFILE, 99))
    with pytest.raises(ConfigError, match=r"a\.tar: .*ulimit -n"):
        FilePool(4).read("a", lambda: file, 1, 0)


def test_idle_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, opens, before = FilePool(4), os.open, open_files()
    for name in "abc":
        (tmp_path / name).write_bytes(CONTENT)

    def limited(path: Path, flags: int) -> int:
        if open_files() >= before + 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return opens(path, flags)

    monkeypatch.setattr(os, "open", limited)
    for name in "abcabc":
        assert pool.read(name, lambda name=name: tmp_path / name, 4, 0) == CONTENT[:4]


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number:03d}" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100)
    return paths


@pytest.mark.parametrize("most", [1, 4, 64])
def test_many_threads_share_few_handles(many: list[Path], most: int) -> None:
    pool, before, wrong = FilePool(most), open_files(), []
    drawn = np.random.default_rng(0).integers(0, len(many), (8, 300))
    started = threading.Barrier(8)

    def read(numbers: np.ndarray) -> None:
        started.wait()
        for number in numbers.tolist():
            if pool.read(number, lambda number=number: many[number], 100, 0) != bytes([number]) * 100:
                wrong.append(number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read, drawn))
    assert not wrong
    assert open_files() - before <= min(most, len(many))
