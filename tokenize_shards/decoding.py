"""A pool of decoding processes. If a video hangs or crashes its process, only that sample is lost; the pool restarts it."""

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
_ATTEMPTS = 2  # something other than its video may have killed a worker

Work = tuple[Shard, VideoMember, Recipe]


class DecodingPool:
    """Decodes videos into futures of clips. Use it as a context manager. With 0 workers it decodes in this process."""

    def __init__(self, workers: int, seconds: float, gib: float) -> None:
        self.workers = workers
        self.seconds = 0.0
        """Seconds spent decoding, summed over all workers."""
        self._seconds, self._gib = seconds, gib
        self._queue: queue.Queue[tuple[Future[Decoded], Work] | None] = queue.Queue()
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
        for thread in self._threads:
            thread.join()

    def submit(self, *work: Any) -> Future[Decoded]:
        """Queue (shard, member, recipe); the future gives Decoded, or raises VideoError or ShardError."""
        future: Future[Decoded] = Future()
        if self.workers:
            self._queue.put((future, work))
        else:
            _settle(future, lambda: decode_member(*work))
        return future

    def _serve(self) -> None:
        """Send one video after another to a worker. Each worker has one such thread."""
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
    """One process, started at the first request and restarted after it dies."""

    def __init__(self, seconds: float, gib: float) -> None:
        self._command = [sys.executable, "-m", "tokenize_shards.worker", str(seconds), str(gib)]
        self._limits = f"data.decode_seconds {seconds:g} and data.decode_gib {gib:g}"
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, work: Work) -> tuple[float, Decoded | Exception]:
        """Return the seconds spent, and the clips or the error."""
        name, code = f"{work[0].name}: {work[1].key}", 0
        for _ in range(_ATTEMPTS):
            process = self._process = self._process or self._start()
            try:
                return self._ask(process, work)
            except (EOFError, OSError):
                code, self._process = process.wait(), None
            if code == -signal.SIGALRM:
                return 0.0, VideoError("time_limit", f"{name}: not decoded within the limits {self._limits}")
        return 0.0, VideoError("crashed", f"{name}: its decoding worker died with code {code}; limits {self._limits}")

    def close(self) -> None:
        if self._process:
            self._process.communicate()  # closes stdin, which ends the worker, and waits for it

    def _start(self) -> subprocess.Popen[bytes]:
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # more threads only reserve memory
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
