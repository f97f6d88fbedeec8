"""What the page keeps stays within its limits."""

from __future__ import annotations

import numpy as np

from hitvideo.generation.record import Fingerprints, Record
from hitvideo.generation.sampling import Sampling
from hitvideo.serving.desk import Desk, Work
from hitvideo.serving.shelf import Kept, Shelf

RECORD = Record("a", 0, Sampling(), Fingerprints("", ""), [np.zeros((1, 1, 1), np.int64)], [1])


def video(size: int) -> Kept:
    return Kept(RECORD, b"x" * size)


def test_the_videos_that_nobody_asked_for_the_longest_leave() -> None:
    shelf = Shelf(most=3, most_bytes=100)
    a, b, c = (shelf.put(video(10)) for _ in range(3))
    assert shelf.get(a)
    d = shelf.put(video(10))
    assert [shelf.get(name) is not None for name in (a, b, c, d)] == [True, False, True, True]
    e = shelf.put(video(95))
    assert [shelf.get(name) is not None for name in (a, c, d, e)] == [False, False, False, True]
    huge = shelf.put(video(1000))
    assert shelf.get(huge)
    assert not shelf.get(e)
    shelf.drop([huge, "absent"])
    names = [shelf.put(video(50)) for _ in range(2)]
    assert all(map(shelf.get, names)), "what was dropped no longer counts"
    assert len({*names, a, b, c, d, e, huge}) == 8


def test_tickets_that_ended_are_forgotten_first() -> None:
    desk = Desk(lambda ticket: None, most_waiting=5, most_kept=10)
    names = []
    for _ in range(40):
        ticket = desk.add(Work([], Sampling(), 1), 1)
        names.append(ticket.name)
        while not ticket.ended:
            pass
    assert sum(desk.get(name) is not None for name in names) == 10
    assert desk.get(names[-1])
    desk.close()
