"""Per-rank heartbeat files, and a watchdog that ends a hung job, or one of whose ranks another has failed.

    runs/NAME/heartbeats/rank-00000.json       {"phase": "forward", "step": 12, "time": …, "host": …, "pid": …}
    runs/NAME/heartbeats/rank-00000.stacks     the stacks of all threads when the job was found hanging

`beat` only notes the current phase. A thread writes it to the file every few seconds and checks how long ago it was. If one
rank makes no progress for too long, *every* rank writes its stacks before the first one exits, because the stuck rank is
rarely the one that detects the hang. A rank that cannot even run this thread is ended by the C library's timer a while later.
A rank that fails says so in a file, too, and the others leave: they would wait for it in a collective until a timeout.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from hitvideo.files import replace_file
from hitvideo.runs.program import EXIT_FAULT, EXIT_HANG
from hitvideo.settings.run import FaultsSection

log = logging.getLogger(__name__)
_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 3.0  # between two looks for an alarm


class Heartbeat:
    """Use as a context manager on every rank."""

    def __init__(self, directory: Path, rank: int, faults: FaultsSection, attempt: str = "0") -> None:
        """`attempt`: a name that the ranks of this start share and no other start has, so that old alarms do not count."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / f"rank-{rank:05d}.json"
        self._stacks = directory / f"rank-{rank:05d}.stacks"
        self._alarm, self._fault = directory / f"HANG-{attempt}", directory / f"FAULT-{attempt}"
        if rank == 0:
            for old in (*directory.glob("HANG*"), *directory.glob("FAULT*")):
                if old not in (self._alarm, self._fault):
                    old.unlink(missing_ok=True)
        self._rank = rank
        self._faults = faults
        self._who = {"host": socket.gethostname(), "pid": os.getpid()}
        self._ended = threading.Event()
        self.beat("start", 0)

    def beat(self, phase: str, step: int) -> None:
        """Enter a phase (fetch, step, …) of a step."""
        self._now = (phase, step, time.time(), time.monotonic())

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="heartbeat")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if kind is None:
            self._write()
            return
        with contextlib.suppress(OSError):  # a full disk, or a refused start whose directory is gone: others learn it anyway
            self._fault.write_text(f"rank {self._rank} on {self._who['host']} failed: {kind.__name__}: {error}"[:1000])

    def _watch(self) -> None:
        pause = min(self._faults.heartbeat_seconds, self._faults.hang_seconds / 4)
        written = time.monotonic()
        with self._stacks.open("w") as stacks:
            while not self._ended.wait(min(pause, _LOOK_SECONDS)):
                faulthandler.dump_traceback_later(2 * self._faults.hang_seconds, exit=True, file=stacks)
                if time.monotonic() - written >= pause:
                    self._write()
                    written = time.monotonic()
                phase, step, _, since = self._now
                silent = time.monotonic() - since
                if self._fault.exists():
                    log.error("this rank ends, in %s of step %d: %s", phase, step, self._fault.read_text())
                    time.sleep(_GRACE_SECONDS)  # until the failed rank has left its traceback
                    os._exit(EXIT_FAULT)
                if silent > self._faults.hang_seconds or self._alarm.exists():
                    self._alarm.touch()
                    log.error("no progress for %.0f s in %s of step %d; stacks are in %s", silent, phase, step, self._stacks)
                    faulthandler.dump_traceback(stacks)
                    stacks.flush()
                    time.sleep(min(pause, _LOOK_SECONDS) + _GRACE_SECONDS)  # until the other ranks have seen the alarm
                    os._exit(EXIT_HANG)

    def _write(self) -> None:
        phase, step, clock, _ = self._now
        content = {"phase": phase, "step": step, "time": clock, **self._who}
        try:
            replace_file(self._file, json.dumps(content), synced=False)
        except OSError as error:  # a full disk must not end the thread that detects hangs
            log.warning("%s: %s", self._file, error)
