"""The timed check of all ranks before the first step; it names slow ranks."""

from __future__ import annotations

import os
import re

from hitvideo.parallel.meeting import meet, slow
from hitvideo.parallel.topology import start
from tests.worlds import run_ranks


def _report() -> dict[str, object]:
    with start(tensor=1) as topology:
        return {"own": topology.rank, **meet(topology)}


def test_every_rank_has_the_same_report() -> None:
    reports = run_ranks(_report, 2)
    assert [report.pop("own") for report in reports] == [0, 1]
    first, second = ([(each["rank"], each["host"]) for each in report["ranks"]] for report in reports)
    assert first == second == [(0, os.uname().nodename), (1, os.uname().nodename)]
    assert all(each["seconds"] > 0 for each in reports[0]["ranks"])


def test_a_slow_rank_is_named() -> None:
    usual = {f"rank {number} on n1": 1.0 + 0.1 * number for number in range(4)}
    assert slow(usual) == []
    assert len(slow({"rank 0 on n1": 1.0, "rank 1 on n1": 2.5})) == 1, "also if there are only two ranks"
    (warning,) = slow({**usual, "rank 4 on n2": 3.6})
    assert re.match(r"rank 4 on n2 .* 3\.0 times", warning)
