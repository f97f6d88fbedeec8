"""Work of many equal parts, shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def shared(
    work: Callable[[Item], Result], items: Iterable[Item], jobs: int, progress: Callable[[int], object] = lambda _: None
) -> Iterator[Result]:
    """work(item) of all items in their order, for any number of `jobs`, the processes that share them; 1: this one alone.

    `progress` is called with 1 after each. With several, `work`, items and results must pickle. What `work` raises is raised
    here when its turn comes, and ends the others.
    """
    with ProcessPoolExecutor(jobs, get_context("forkserver")) if jobs > 1 else nullcontext() as pool:
        for result in pool.map(work, items) if pool else map(work, items):
            yield result
            progress(1)
