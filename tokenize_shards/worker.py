"""A decoding worker: reads requests from stdin, writes clips to stdout, and may die of a video without taking anyone along.

    python -m tokenize_shards.worker SECONDS GIB

A message is its length (8 bytes) and a pickle; after a reply the clips' bytes follow as they are. A video that takes
longer than SECONDS ends the worker by its own alarm clock, even inside the decoder; one that needs more memory than GIB is
refused it. When the parent is gone, stdin ends, and so does the worker.
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
    content = pickle.dumps(message)
    pipe.write(LENGTH.pack(len(content)) + content)


def receive(pipe: IO[bytes]) -> Any:
    """The next message; EOFError where the other side is gone."""
    head = pipe.read(LENGTH.size)
    content = pipe.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
    if not content:
        raise EOFError
    return pickle.loads(content)


def main(seconds: float, gib: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops at a shard's end
    limit = int(gib * (1 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to the log, not between two messages
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        serve(requests, replies, seconds)
    os._exit(0)  # nothing is left to flush


def serve(requests: IO[bytes], replies: IO[bytes], seconds: float) -> None:
    """Answer requests until there are no more."""
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
