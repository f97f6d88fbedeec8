"""Leases: which task does which shard, and how other tasks find out that it died.

A task begins with its own shards, dealt out by size, and then helps the others. Before a shard it creates a lease file with
its name in it, which fails if there is one, and touches it while it works; a stale lease is taken over. Leases only save
work: two tasks that do the same shard give the same bytes, and the first commit wins.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from hitvideo.data.remote import Shard
from hitvideo.data.token_format import shard_paths
from hitvideo.files import process_name

_WATCH = "watch"  # the lease of the one task that waits for the others' last shards


def deal_shards(shards: Sequence[Shard], sizes: Sequence[int], tasks: int) -> list[list[Shard]]:
    """Divide shards among tasks so that bytes are even: largest first, each to the emptiest task; sorted by name."""
    loads = [(0, task) for task in range(tasks)]
    share: list[list[Shard]] = [[] for _ in range(tasks)]
    for size, shard in sorted(zip(sizes, shards, strict=True), key=lambda pair: (-pair[0], str(pair[1]))):
        load, task = heapq.heappop(loads)
        share[task].append(shard)
        heapq.heappush(loads, (load + size, task))
    return [sorted(mine, key=str) for mine in share]


class Leases:
    """Lease files in `out`/.leases, touched by a thread; use as a context manager."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.folder = out / ".leases"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seconds = seconds
        self._name = f"{process_name()}-{uuid.uuid4().hex[:8]}"  # containers may share host name and process number
        self._clock = self.folder / f"clock.{self._name}"  # the file system's own time; machines' clocks differ
        self._held: set[Path] = set()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Leases:
        self._clock.touch()
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        for path in list(self._held):
            self._drop(path)
        self._clock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: other tasks are at work
            self.folder.rmdir()

    def take(self, name: str) -> bool:
        """Take a lease; False if a live task holds it. It is ours until `release`, or until this process dies."""
        path = self.folder / f"{name}.lease"
        for _ in range(2):
            try:
                with path.open("x") as file:
                    file.write(self._name)
            except FileExistsError:
                if path in self._held or not self._expired(path):
                    return False
                with contextlib.suppress(FileNotFoundError):  # another task was faster
                    os.rename(path, self._clock)
                continue
            self._held.add(path)
            return True
        return False

    def release(self, name: str) -> None:
        self._drop(self.folder / f"{name}.lease")

    def _drop(self, path: Path) -> None:
        self._held.discard(path)
        if self._is_ours(path):  # else this task was considered dead, and another one has it now
            path.unlink(missing_ok=True)

    def _is_ours(self, path: Path) -> bool:
        try:
            return path.read_text() == self._name
        except FileNotFoundError:
            return False

    def _expired(self, path: Path) -> bool:
        self._clock.touch()
        try:
            return self._clock.stat().st_mtime - path.stat().st_mtime > self.seconds
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        while not self._ending.wait(self.seconds / 4):
            for path in list(self._held):
                with contextlib.suppress(OSError):  # a store may be out of reach for a while
                    if self._is_ours(path):
                        os.utime(path)


class Flush(NamedTuple):
    """A request to the pipeline among its shards: commit all work in progress."""


class Failures:
    """Shards that failed in this task: which may be tried again, and when."""

    def __init__(self, attempts: int, seconds: float) -> None:
        """`attempts` per shard; `seconds`: the pause before the second, twice that before the third, and so on."""
        self.attempts, self.seconds = attempts, seconds
        self.in_a_row = 0
        """Shards that failed since the last one that did not."""
        self.last: dict[Shard, Exception] = {}
        """Each failed shard's last error."""
        self._count: Counter[Shard] = Counter()
        self._new = 0  # the most attempts of any shard that failed since the last pause

    def note(self, shard: Shard, failure: Exception | None) -> None:
        """Record how an attempt at a shard ended."""
        if failure is None:
            self.in_a_row = 0
            self.last.pop(shard, None)
        else:
            self.in_a_row += 1
            self.last[shard] = failure
            self._count[shard] += 1
            self._new = max(self._new, self._count[shard])

    def may_try(self, shard: Shard) -> bool:
        """Whether this task may try the shard once more."""
        return self._count[shard] < self.attempts

    def pause(self, stopping: Callable[[], bool]) -> bool:
        """Wait if any shard failed since the last pause that may be tried again; returns whether there was one."""
        new, self._new = self._new, 0
        if not 0 < new < self.attempts:
            return False
        deadline = time.monotonic() + self.seconds * 2 ** (new - 1)
        while time.monotonic() < deadline and not stopping():
            time.sleep(min(0.2, self.seconds))
        return True


def done(out: Path, stem: str) -> bool:
    """Whether a shard has its receipt."""
    return shard_paths(out, stem)[2].is_file()


def claims(
    mine: Sequence[Shard],
    others: Sequence[Shard],
    out: Path,
    leases: Leases,
    stopping: Callable[[], bool],
    failures: Failures,
) -> Iterator[Shard | Flush]:
    """Yield shards to do, each leased: first mine, then what others leave undone. A Flush ends each pass over them.

    A shard that failed is tried again in the next pass, after a pause, until this task has tried it often enough. When live
    tasks hold everything that is left, one task waits to take over from any that dies; the others may end.
    """
    left = [shard for shard in (*mine, *others) if not done(out, shard.stem)]
    watching = False
    while left and not stopping():
        for shard in left:
            if stopping():
                return
            if done(out, shard.stem) or not leases.take(shard.stem):
                continue
            if done(out, shard.stem):  # it was committed in between
                leases.release(shard.stem)
                continue
            yield shard
        yield Flush()
        left = [shard for shard in left if not done(out, shard.stem) and failures.may_try(shard)]
        retrying = failures.pause(stopping)
        watching = watching or (bool(left) and leases.take(_WATCH))
        if left and not watching and not retrying:
            return
        if left and not retrying:
            time.sleep(min(1.0, leases.seconds / 4))
