"""A pool of decoding processes. If a video hangs or crashes its process, only that sample is lost; the pool restarts it.

A thread per process reads the video from its shard and sends it over; the process needs neither store nor credentials.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from hitvideo.data.remote import Shard
from hitvideo.data.video_shards import VideoMember, VideoSample
from hitvideo.errors import VideoError
from tokenize_shards.recipe import Decoded, Recipe, decode_member, fetch
from tokenize_shards.worker import receive, send

T = TypeVar("T")

_PIPE_BYTES = 1 << 20
_ATTEMPTS = 2  # something other than its video may have ended a worker
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP}
_CLOSING_SECONDS = 10.0
# What a program needs to run. Credentials of stores and trackers stay behind: a video may turn out to be an attack.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV")

log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A decoding worker cannot start, or ends without a video being the reason: a fault of the machine or its settings."""


class DecodingPool:
    """Decodes videos into futures of clips. Use it as a context manager. With 0 workers it decodes in this process."""

    def __init__(self, workers: int, seconds: float, gib: float, read_seconds: float = 900.0) -> None:
        """`seconds`: CPU time per video; `gib`: memory per worker; `read_seconds`: longest wait for the store."""
        self.workers = workers
        self.seconds = 0.0
        """Seconds spent decoding, summed over all workers."""
        self._seconds, self._gib, self._read_seconds = seconds, gib, read_seconds
        self._queue: queue.Queue[tuple[Future[Decoded], Shard, VideoMember, Recipe] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> DecodingPool:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        with contextlib.suppress(queue.Empty):  # nobody waits for this work any longer
            while waiting := self._queue.get_nowait():
                waiting[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + _CLOSING_SECONDS  # a thread may hang in a store; the threads end with this process
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def submit(self, shard: Shard, member: VideoMember, recipe: Recipe) -> Future[Decoded]:
        """Queue a video. The future gives Decoded, or raises VideoError, or another error if it is not the video's fault."""
        future: Future[Decoded] = Future()
        if self.workers:
            self._queue.put((future, shard, member, recipe))
        else:
            _settle(future, lambda: decode_member(shard, member, recipe))
        return future

    def _serve(self) -> None:
        """Send one video after another to a worker. Each worker has one such thread."""
        worker = _Worker(self._seconds, self._gib)
        while waiting := self._queue.get():
            future, shard, member, recipe = waiting
            if future.set_running_or_notify_cancel():
                _settle(future, partial(self._decode, worker, shard, member, recipe))
        worker.close()

    def _decode(self, worker: _Worker, shard: Shard, member: VideoMember, recipe: Recipe) -> Decoded:
        name = f"{shard.name}: {member.key}"
        sample = within(self._read_seconds, f"{name}: reading it", lambda: fetch(shard, member, recipe))
        seconds, decoded = worker.decode(sample, recipe, name)
        self.seconds += seconds
        if isinstance(decoded, VideoError):
            raise decoded
        return decoded


def within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """The result of a call that may hang in a file system or a store. Raises TimeoutError, an OSError, if it does."""
    future: Future[T] = Future()
    threading.Thread(target=_settle, args=(future, call), daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # the call's own TimeoutError
            raise
        raise TimeoutError(f"{what} takes more than data.read_seconds {seconds:g}; is the store stalled?") from None


class _Worker:
    """One process, started at the first request and restarted after it dies."""

    def __init__(self, seconds: float, gib: float) -> None:
        self._command = [sys.executable, "-m", "tokenize_shards.worker", str(seconds), str(gib)]
        self._limits = f"data.decode_seconds {seconds:g} and data.decode_gib {gib:g}"
        self._patience = 10 * seconds + 60  # of the clock; the limit itself is CPU time, which a busy machine does not use up
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, sample: VideoSample, recipe: Recipe, name: str) -> tuple[float, Decoded | VideoError]:
        """Return the seconds spent, and the clips or why there are none. Raises WorkerError."""
        code = 0
        for _ in range(_ATTEMPTS):
            process = self._process or self._start()
            try:
                with _killed_after(process, self._patience):
                    return self._ask(process, sample, recipe, name)
            except (EOFError, OSError, ValueError, KeyError, TypeError):  # it died, or its answer is none
                process.kill()
                code, self._process = process.wait(), None
            if code == -signal.SIGPROF:
                raise VideoError("time_limit", f"{name}: not decoded within the limits {self._limits}")
        if -code in _CRASHES:
            raise VideoError("crashed", f"{name}: its decoding worker died of signal {-code}; limits {self._limits}")
        raise WorkerError(
            f"{name}: the decoding worker ended twice with code {code}; limits {self._limits}"
            + ("; if the machine ran out of memory, lower data.workers or data.decode_gib" if code == -signal.SIGKILL else "")
        )

    def close(self) -> None:
        if self._process:
            self._process.communicate()  # closes stdin, which ends the worker, and waits for it

    def _start(self) -> subprocess.Popen[bytes]:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # more threads only reserve memory
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {**one_thread, "PYTHONPATH": paths}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, env=environment, pipesize=_PIPE_BYTES)
        except OSError as error:
            raise WorkerError(f"a decoding worker cannot be started: {error}") from error
        try:
            with _killed_after(process, self._patience):
                receive(process.stdout)  # it says that its imports have worked
        except (EOFError, OSError, ValueError) as error:
            process.kill()
            raise WorkerError(
                f"a decoding worker ended with code {process.wait()} before its first video; its own message is above; "
                f"is data.decode_gib {self._limits.rpartition(' ')[2]} too small?"
            ) from error
        self._process = process
        return process

    @staticmethod
    def _ask(
        process: subprocess.Popen[bytes], sample: VideoSample, recipe: Recipe, name: str
    ) -> tuple[float, Decoded | VideoError]:
        requests: Any = process.stdin
        replies: Any = process.stdout
        send(requests, sample, recipe, name)
        answer = receive(replies)
        seconds = float(answer["seconds"])
        if "reject" in answer:
            reason, message = answer["reject"]
            return seconds, VideoError(str(reason), str(message))
        bucket, number = int(answer["bucket"]), int(answer["clips"])
        if not (0 <= bucket < len(recipe.buckets) and 0 < number <= recipe.clips_per_video):
            raise ValueError(f"bucket {bucket}, {number} clips")
        clips = np.empty((number, *recipe.buckets[bucket].extent, 3), np.uint8)
        if replies.readinto(clips.data.cast("B")) != clips.nbytes:
            raise EOFError
        return seconds, Decoded(sample.caption, recipe.described_clip(sample, bucket), bucket, clips)


@contextlib.contextmanager
def _killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kill a process that has not answered in time, so that whoever waits for its answer reads the end of its output."""
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    """Whatever happens, the future is settled: somebody waits for it."""
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
