"""The timed check of all ranks before the first step; it names slow ranks, and nodes with slow links."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from typing import Any

import pytest
import torch.distributed as dist

from hitvideo.parallel.meeting import meet, slow
from hitvideo.parallel.topology import start
from hitvideo.settings.cluster import ClusterSection
from tests.worlds import run_ranks

# 1 MiB among four ranks in 10 ms is 0.16 GB/s, which gloo exceeds by far here.
CLUSTER = {"devices": "gpu", "peak_tflops": 1, "memory_gib": 1, "near_gbs": 0.16, "nic_gbs": 0.08}


def _report() -> dict[str, object]:
    """On CPUs, whose links nobody has described."""
    cluster = ClusterSection.model_validate(CLUSTER | {"devices": "cpu", "near_gbs": 1e9})
    with start(tensor=1) as topology:
        return {"own": topology.rank, **meet(topology, cluster, "fp32")}


def test_every_rank_has_the_same_report() -> None:
    reports = run_ranks(_report, 2)
    assert [report.pop("own") for report in reports] == [0, 1]
    assert reports[0] == reports[1]
    ranks: Any = reports[0]["ranks"]
    assert [(each["rank"], each["host"]) for each in ranks] == [(0, os.uname().nodename), (1, os.uname().nodename)]
    assert all(each["seconds"] > 0 for each in ranks)
    assert "links" not in reports[0], "the links of CPUs are not judged"


def test_a_slow_rank_is_named() -> None:
    usual = {f"rank {number} on n1": 1.0 + 0.1 * number for number in range(4)}
    assert slow(usual) == []
    assert len(slow({"rank 0 on n1": 1.0, "rank 1 on n1": 2.5})) == 1, "also if there are only two ranks"
    (warning,) = slow({**usual, "rank 4 on n2": 3.6})
    assert re.match(r"rank 4 on n2 .* 3\.0 times", warning)


def _with_a_slow_rank(sleeper: int, where: str, per_node: int) -> tuple[dict[str, Any], list[str]]:
    """A world of nodes with `per_node` ranks each, of which one is late in collectives: all, or those that leave its node."""
    rank, said, real = int(os.environ["RANK"]), [], dist.all_reduce

    def late(buffer: Any, group: Any = None) -> Any:
        members = dist.get_process_group_ranks(group or dist.group.WORLD)
        if where == "inside" or {member // per_node for member in members} != {sleeper // per_node}:
            time.sleep(0.1)
        return real(buffer, group=group)

    socket.gethostname = lambda: f"n{rank // per_node}"
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hitvideo.parallel.meeting").addHandler(handler)
    with start(tensor=1) as topology:
        if rank == sleeper:
            dist.all_reduce = late  # type: ignore[assignment]
        report = meet(topology, ClusterSection.model_validate(CLUSTER), "fp32")
        dist.all_reduce = real
    return report, said


@pytest.mark.slow
@pytest.mark.parametrize(("where", "per_node", "world"), [("inside", 2, 4), ("outside", 1, 3)])
def test_a_node_with_a_slow_link_is_named(where: str, per_node: int, world: int) -> None:
    sleeper = world - per_node - 1  # in the node before the last
    reports, said = zip(*run_ranks(_with_a_slow_rank, world, sleeper, where, per_node), strict=True)
    assert all(report == reports[0] for report in reports)
    named = {host for text in said[0] for host in re.findall(r"--exclude=(\w+)", text)}
    assert named == {f"n{sleeper // per_node}"}
    assert any("an all-reduce of" in text for text in said[0])
    assert not any(said[1:]), "rank 0 speaks for all"
    slowest = max(reports[0]["links"], key=lambda link: link["seconds"])
    assert f"n{sleeper // per_node}" in slowest["hosts"]
    assert slowest["seconds"] > 0.1
