"""A pool of decoding processes. A video that hangs or kills its process loses one sample; the process is replaced."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any

import numpy as np

from hitvideo.data.remote import Shard
from hitvideo.data.video_shards import VideoMember
from hitvideo.errors import ShardError, VideoError
from tokenize_shards.recipe import Decoded, Recipe, decode_member
from tokenize_shards.worker import receive, send

_PIPE_BYTES = 1 << 20
_ATTEMPTS = 2  # a worker may be killed by something other than its video

Work = tuple[Shard, VideoMember, Recipe]


class DecodingPool:
    """Decodes videos into futures of clips; use as a context manager. With 0 workers it decodes in this process."""

    def __init__(self, workers: int, seconds: float, gib: float) -> None:
        self.workers = workers
        self.seconds = 0.0
        """Time spent decoding, summed over all workers."""
        self._seconds, self._gib = seconds, gib
        self._queue: queue.Queue[tuple[Future[Decoded], Work] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> DecodingPool:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        with contextlib.suppress(queue.Empty):  # work that nobody waits for any more
            while waiting := self._queue.get_nowait():
                waiting[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, *work: Any) -> Future[Decoded]:
        """(shard, member, recipe) → Decoded; its exception is a VideoError or a ShardError."""
        future: Future[Decoded] = Future()
        if self.workers:
            self._queue.put((future, work))
        else:
            _settle(future, lambda: decode_member(*work))
        return future

    def _serve(self) -> None:
        """Hand one video after another to a worker; one thread per worker."""
        worker = _Worker(self._seconds, self._gib)
        while waiting := self._queue.get():
            future, work = waiting
            seconds, outcome = worker.decode(work)
            self.seconds += seconds
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        worker.close()


class _Worker:
    """One process, started when there is work and started again after it died."""

    def __init__(self, seconds: float, gib: float) -> None:
        self._command = [sys.executable, "-m", "tokenize_shards.worker", str(seconds), str(gib)]
        self._limits = f"{seconds:g} s of time and {gib:g} GiB of memory"
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, work: Work) -> tuple[float, Decoded | Exception]:
        """Seconds spent, and the clips or the error."""
        name, code = f"{work[0].name}: {work[1].key}", 0
        for _ in range(_ATTEMPTS):
            process = self._process = self._process or self._start()
            try:
                return self._ask(process, work)
            except (EOFError, OSError):
                code, self._process = process.wait(), None
            if code == -signal.SIGALRM:
                return 0.0, VideoError("time_limit", f"{name}: not decoded within the worker's {self._limits}")
        return 0.0, VideoError("crashed", f"{name}: its decoding worker died with code {code}, within {self._limits}")

    def close(self) -> None:
        if self._process:
            self._process.communicate()  # closes stdin, which ends it, and waits

    def _start(self) -> subprocess.Popen[bytes]:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # more would only reserve memory
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, **one_thread, "PYTHONPATH": paths}
        pipe = subprocess.PIPE
        return subprocess.Popen(self._command, stdin=pipe, stdout=pipe, env=environment, pipesize=_PIPE_BYTES)

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], work: Work) -> tuple[float, Decoded | Exception]:
        requests: Any = process.stdin
        replies: Any = process.stdout
        send(requests, work)
        requests.flush()
        seconds, answer, shape = receive(replies)
        if isinstance(answer, VideoError | ShardError):
            return seconds, answer
        clips = np.empty(shape, np.uint8)
        if replies.readinto(clips.data.cast("B")) != clips.nbytes:
            raise EOFError
        caption, metadata, bucket = answer
        return seconds, Decoded(caption, metadata, bucket, clips)


def _settle(future: Future[Decoded], call: Any) -> None:
    try:
        future.set_result(call())
    except (VideoError, ShardError) as error:
        future.set_exception(error)
