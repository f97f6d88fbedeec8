"""Which nodes train, which a requeued job avoids, and whether ranks are bound: from the pre-flight's reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hitvideo.cluster.nodes import excludable, numa_binding, unfit

GOOD = {"GPUs": "8", "GPU": "NVIDIA H100 80GB HBM3", "driver": "550.54", "CUDA": "12.8"}
FAULT = "devices: RuntimeError: 0 of 8 GPUs are visible"


def report(folder: Path, host: str, faults: tuple[str, ...] = (), **hardware: str) -> None:
    found: dict[str, Any] = {"faults": faults, "versions": {"torch": "2"}, "hardware": GOOD | hardware, "no_numa_binding": None}
    (folder / f"{host}.json").write_text(json.dumps(found))


def nodes(number: int) -> list[str]:
    return [f"n{each}" for each in range(number)]


@pytest.mark.parametrize("key", GOOD)
def test_a_node_that_differs_is_named_with_the_difference(tmp_path: Path, key: str) -> None:
    for host in nodes(4):
        report(tmp_path, host, (), **({key: "other"} if host == "n2" else {}))
    bad = unfit(tmp_path, nodes(4))
    assert bad.keys() == {"n2"}
    assert f"{key} other (theirs {GOOD[key]})" in bad["n2"]
    assert bad["n2"].count("theirs") == 1, "and nothing else"


def test_a_faulty_node_is_no_measure_for_the_others(tmp_path: Path) -> None:
    """Of two nodes, one shows no GPUs: that one is unfit, and not the other because it differs."""
    report(tmp_path, "n0", (FAULT,), GPUs="0", GPU="none")
    report(tmp_path, "n1")
    assert unfit(tmp_path, nodes(2)) == {"n0": FAULT}
    assert excludable(tmp_path, nodes(2)) == ["n0"]


def test_a_report_is_found_by_the_name_in_slurm(tmp_path: Path) -> None:
    report(tmp_path, "compute-1.cluster.local")
    report(tmp_path, "n2")
    (tmp_path / "fault-00000.json").write_text("{}")
    assert unfit(tmp_path, ["compute-1.cluster.local", "n2.cluster.local"]) == {}
    assert unfit(tmp_path, ["10.0.0.1"]).keys() == {"10.0.0.1"}


def test_a_node_that_only_did_not_report_is_not_excluded(tmp_path: Path) -> None:
    for host in nodes(6):
        report(tmp_path, host)
    report(tmp_path, "n1", (FAULT,))
    assert unfit(tmp_path, nodes(8)).keys() == {"n1", "n6", "n7"}
    assert excludable(tmp_path, nodes(8)) == ["n1"]
    assert excludable(tmp_path / "empty", nodes(8)) == []


@pytest.mark.parametrize(("number", "faulty", "excluded"), [(1, 1, 1), (2, 2, 0), (8, 2, 2), (8, 3, 0), (16, 16, 0)])
def test_what_many_nodes_share_excludes_none(tmp_path: Path, number: int, faulty: int, excluded: int) -> None:
    for place, host in enumerate(nodes(number)):
        report(tmp_path, host, (FAULT,) if place < faulty else ())
    assert len(unfit(tmp_path, nodes(number))) == faulty
    assert len(excludable(tmp_path, nodes(number))) == excluded


def test_ranks_are_bound_if_all_nodes_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(tmp_path, "n0")
    report(tmp_path, "n1")
    assert numa_binding(tmp_path, nodes(2)) == "--numa-binding=node"
    found = json.loads((tmp_path / "n1.json").read_text()) | {"no_numa_binding": "no CPU near GPU 4"}
    (tmp_path / "n1.json").write_text(json.dumps(found))
    assert numa_binding(tmp_path, nodes(2)) == ""
    assert "n1: no CPU near GPU 4" in capsys.readouterr().err
    assert numa_binding(tmp_path, ["n7"]) == ""
