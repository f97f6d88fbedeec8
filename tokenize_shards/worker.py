"""A decoding worker process: reads requests from stdin, writes clips to stdout. A video can crash only its own worker.

    python -m tokenize_shards.worker SECONDS GIB

A message is an 8-byte length and a pickle. The raw bytes of the clips follow a successful reply. If a video takes longer
than SECONDS, the worker's alarm ends it, even inside the decoder. Allocations beyond GIB of memory fail. The worker exits
when its parent does, because stdin ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import struct
import sys
import time
from typing import IO, Any

import numpy as np

from hitvideo.errors import ShardError, VideoError
from tokenize_shards.recipe import decode_member

LENGTH = struct.Struct("<Q")


def send(pipe: IO[bytes], message: object) -> None:
    """Write one message, without flushing."""
    content = pickle.dumps(message)
    pipe.write(LENGTH.pack(len(content)) + content)


def receive(pipe: IO[bytes]) -> Any:
    """Read the next message. Raises EOFError if the other side is gone."""
    head = pipe.read(LENGTH.size)
    content = pipe.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
    if not content:
        raise EOFError
    return pickle.loads(content)


def main(seconds: float, gib: float) -> None:
    """Answer requests within these limits until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops at the end of a shard
    limit = int(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints must go to the log, not between two messages
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        serve(requests, replies, seconds)
    os._exit(0)  # nothing is left to flush


def serve(requests: IO[bytes], replies: IO[bytes], seconds: float) -> None:
    """Answer requests until stdin ends."""
    while True:
        request = receive(requests)
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            decoded = decode_member(*request)
        except (VideoError, ShardError) as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(replies, (time.perf_counter() - start, error, None))
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)
            known = (decoded.caption, decoded.metadata, decoded.bucket)
            send(replies, (time.perf_counter() - start, known, decoded.clips.shape))
            replies.write(np.ascontiguousarray(decoded.clips).data.cast("B"))
        replies.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
