"""A decoding worker process: reads videos from stdin, writes clips to stdout. A video can crash only its own worker.

    python -m tokenize_shards.worker SECONDS GIB

A request is an 8-byte length and a pickle of video, recipe and name. An answer is an 8-byte length and JSON, never a pickle:
what a hostile video makes of this process must not reach the parent. The raw bytes of the clips follow a successful answer.
If a video takes more than SECONDS of CPU time, the worker's alarm ends it, even inside the decoder. Allocations beyond GIB of
memory fail. The worker exits when its parent does, because stdin ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
from typing import IO, Any

import numpy as np

from hitvideo.data.video_shards import VideoSample
from hitvideo.errors import VideoError
from tokenize_shards.recipe import Recipe, cut

LENGTH = struct.Struct("<Q")
LARGEST_ANSWER = 1 << 20


def send(pipe: IO[bytes], sample: VideoSample, recipe: Recipe, name: str) -> None:
    """Write one request."""
    content = pickle.dumps((sample, recipe, name))
    pipe.write(LENGTH.pack(len(content)) + content)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> dict[str, Any]:
    """Read the next answer. Raises EOFError if the worker is gone, ValueError if it is not an answer."""
    assert pipe
    content = _message(pipe, LARGEST_ANSWER)
    answer = json.loads(content)
    if not isinstance(answer, dict):
        raise ValueError("a worker's answer is not an object")
    return answer


def _message(pipe: IO[bytes], largest: int | None = None) -> bytes:
    head = pipe.read(LENGTH.size)
    size = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
    if largest and size > largest:
        raise ValueError(f"a message of {size} bytes")
    content = pipe.read(size)
    if not content or len(content) < size:
        raise EOFError
    return content


def main(seconds: float, gib: float) -> None:
    """Answer requests within these limits until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops at the end of a shard
    limit = int(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints must go to the log, not between two messages
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        _answer(answers, {"ready": True})
        serve(requests, answers, seconds)
    os._exit(0)  # nothing is left to flush


def serve(requests: IO[bytes], answers: IO[bytes], seconds: float) -> None:
    """Answer requests until stdin ends."""
    while True:
        sample, recipe, name = pickle.loads(_message(requests))
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        clips: bytes | memoryview = b""
        answer: dict[str, Any]
        try:
            decoded = cut(sample, recipe, name)
        except VideoError as error:
            answer = {"reject": [error.reason, str(error)[:1000]]}
        else:
            answer = {"bucket": decoded.bucket, "clips": len(decoded.clips)}
            clips = np.ascontiguousarray(decoded.clips).data.cast("B")
        signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(answers, {"seconds": time.perf_counter() - start, **answer}, clips)


def _answer(pipe: IO[bytes], answer: dict[str, Any], clips: bytes | memoryview = b"") -> None:
    content = json.dumps(answer).encode()
    pipe.write(LENGTH.pack(len(content)) + content)
    pipe.write(clips)
    pipe.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
