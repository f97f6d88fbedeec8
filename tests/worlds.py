"""Real process groups on the CPU: ranks are forked from a server that has torch, DeepSpeed and Megatron imported once.

    losses = run_ranks(train_some, 4, "argument")        # one result for each rank

A rank is a process with the environment torchrun would give it. Forking from the standard library's forkserver, and not
from the test process, keeps threads that a test has started out of the ranks.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import random
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preload"])


class RankError(AssertionError):
    pass


def free_port() -> int:
    """Below the ports that the kernel hands out by itself: a world binds its port again for every run in it."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def start_ranks(function: Callable[..., int], world: int, *arguments: Any, threads: int = 1) -> list[Any]:
    """The processes of a world, for tests that kill them; they exit with what the function returns."""
    port = free_port()
    ranks = [
        _context.Process(target=_exit_with, args=(function, rank, world, port, threads, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def run_ranks(function: Callable[..., Any], world: int, *arguments: Any, timeout: float = 400, threads: int = 1) -> list[Any]:
    """Call a module-level function on every rank of a world; returns their results in rank order."""
    port = free_port()
    results: Any = _context.Queue()
    ranks = [
        _context.Process(target=_rank, args=(function, rank, world, port, threads, results, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    found: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(found) < world:
            try:
                rank, fine, value = results.get(timeout=0.5)
            except queue.Empty:
                dead = [r for r, process in enumerate(ranks) if process.exitcode not in (None, 0) and r not in found]
                if dead:
                    raise RankError(f"rank {dead[0]} died with exit code {ranks[dead[0]].exitcode}") from None
                if time.monotonic() > deadline:
                    raise RankError(f"only ranks {sorted(found)} of {world} finished in {timeout:.0f} s") from None
                continue
            if not fine:
                raise RankError(f"rank {rank} failed:\n{value}")
            found[rank] = pickle.loads(value)
        for process in ranks:
            process.join(30)
    finally:
        for process in ranks:
            process.kill()
    return [found[rank] for rank in range(world)]


def _become(rank: int, world: int, port: int, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in torchrun.items()})


def _exit_with(
    function: Callable[..., int], rank: int, world: int, port: int, threads: int, arguments: tuple[Any, ...]
) -> None:
    _become(rank, world, port, threads)
    sys.exit(function(*arguments))


def _rank(
    function: Callable[..., Any], rank: int, world: int, port: int, threads: int, results: Any, arguments: tuple[Any, ...]
) -> None:
    _become(rank, world, port, threads)
    try:
        # Pickled here: the queue itself would share tensors by handles that die with the rank.
        results.put((rank, True, pickle.dumps(function(*arguments))))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
