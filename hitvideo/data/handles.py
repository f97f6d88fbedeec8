"""Reading parts of files: one bounded pool of open files for the whole process, and reads that are tried again.

A machine or a store that falters for a moment costs a pause, and no sample. What still fails after that is a ShardError,
which the loader counts as damage; too many open files is a ConfigError, because no sample is to blame for it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hitvideo.errors import ConfigError, ShardError

WAITS = (0.1, 0.5, 2.0)
"""Seconds before each of the further tries."""
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
ResultT = TypeVar("ResultT")


def retried(action: Callable[[], ResultT], name: Callable[[], object]) -> ResultT:
    """The result of reading the file that errors call `name()`; after an OSError it is tried again, three times.

    Raises ShardError if the file is not there or still fails, ConfigError if there are too many open files.
    """
    tries = 0
    while True:
        try:
            return action()
        except OSError as error:
            if tries == len(WAITS) or isinstance(error, _NOT_THERE) or error.errno in _TOO_MANY_OPEN:
                raise blamed(error, name()) from error
        time.sleep(WAITS[tries])
        tries += 1


def blamed(error: OSError, name: object) -> ConfigError | ShardError:
    """What to raise for a file that cannot be read."""
    if error.errno in _TOO_MANY_OPEN:
        return ConfigError(f"{name}: {error.strerror}; raise the limit of open files that `ulimit -n` shows")
    return ShardError(f"{name}: cannot be read: {error}")


@dataclass
class _File:
    handle: int
    size: int
    users: int = 0
    kept: bool = True
    """False: the last user closes it."""


class FilePool:
    """The files that were read last stay open, at most `most` of them besides those being read at the moment."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[Hashable, _File] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, key: Hashable, path: Callable[[], Path], length: int, offset: int) -> bytes:
        """`length` bytes at `offset`, fewer only if the file ends before. `key` names the file, `path` is asked to open it.

        Raises like `retried`.
        """
        return retried(lambda: self._read(key, path, length, offset), path)

    def _read(self, key: Hashable, path: Callable[[], Path], length: int, offset: int) -> bytes:
        file = self._take(key, path)
        try:
            wanted = max(0, min(length, file.size - offset))
            found = os.pread(file.handle, wanted, offset) if wanted else b""
            while len(found) < wanted and (more := os.pread(file.handle, wanted - len(found), offset + len(found))):
                found += more
            return found
        except OSError:
            file.kept = False  # a stale handle: the next try opens the file anew
            raise
        finally:
            self._give_back(key, file)

    def _take(self, key: Hashable, path: Callable[[], Path]) -> _File:
        with self._lock:
            if file := self._files.get(key):
                self._files.move_to_end(key)
                file.users += 1
                return file
        opened = self._open(path())  # not under the lock: others go on reading while a store is slow
        with self._lock:
            file = self._files.setdefault(key, opened)
            file.users += 1
            if file is not opened:  # another thread was faster
                os.close(opened.handle)
            self._shrink(self._most)
            return file

    def _give_back(self, key: Hashable, file: _File) -> None:
        with self._lock:
            file.users -= 1
            if not file.kept and self._files.get(key) is file:
                del self._files[key]
            if not file.kept and not file.users:
                os.close(file.handle)

    def _open(self, path: Path) -> _File:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in _TOO_MANY_OPEN:
                raise
            with self._lock:
                self._shrink(0)
            handle = os.open(path, os.O_RDONLY)
        return _File(handle, os.fstat(handle).st_size)

    def _shrink(self, most: int) -> None:
        for key in [key for key, file in self._files.items() if not file.users][: max(0, len(self._files) - most)]:
            os.close(self._files.pop(key).handle)


POOL = FilePool(most=64)
"""The pool of this process. A data set may have a million files, and the usual limit of a process is 1,024."""
