"""What a node's pre-flight finds, on this machine and on broken ones."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch

from hitvideo.cluster import checks, preflight


def run(folder: Path) -> dict[str, object]:
    assert preflight.main(folder, 1) == 0
    found: dict[str, object] = json.loads((folder / f"{socket.gethostname().split('.')[0]}.json").read_text())
    return found


def test_this_machine_is_fit(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found["faults"] == []
    assert found["versions"]["torch"].startswith("2.")  # type: ignore[index]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing is left behind"


def test_every_fault_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_SHARED_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert preflight.main(tmp_path, 8) == 0
    (path,) = tmp_path.glob("*.json")
    faults = json.loads(path.read_text())["faults"]
    assert len(faults) == 2
    assert faults[0].startswith("shared memory: FileNotFoundError")
    assert faults[1] == "devices: RuntimeError: 1 of 8 GPUs are visible"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an attempt on a node that Slurm calls compute-1, with two GPUs granted and 16 CPUs."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "compute-1")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    return tmp_path


def faults(folder: Path, ranks: int = 2) -> list[str]:
    assert preflight.main(folder, ranks) == 0
    found: list[str] = json.loads((folder / "compute-1.json").read_text())["faults"]
    return found


def test_gpus_that_were_granted_must_be_there(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (fault,) = faults(job)
    assert fault.startswith("devices: RuntimeError: 0 of 2 GPUs are visible")
    (job / preflight.TRAINS_ON).write_text("gpu\n")
    assert faults(job) == [fault]
    (job / preflight.TRAINS_ON).write_text("cpu\n")
    assert faults(job) == [], "said to train on the CPU"
    (job / preflight.TRAINS_ON).unlink()
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    assert faults(job) == [], "none were granted"


@pytest.mark.parametrize(("cpus", "fit"), [(1, False), (15, False), (16, True)])
def test_each_rank_needs_two_cpus(job: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, fit: bool) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cpus)))
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    found = faults(job, ranks=8)
    assert found == [] if fit else [f"CPUs: RuntimeError: the job may use {cpus} CPUs" in each for each in found] == [True]


def test_a_report_says_what_the_node_has(job: Path) -> None:
    faults(job)
    found = json.loads((job / "compute-1.json").read_text())
    assert found["hardware"].keys() == {"GPUs", "GPU", "driver", "CUDA"}
    assert found["wiring"].keys() == {"network ports", "PCIe lanes", "NVLinks"}
    assert found["cpus"] == 16
    assert found["no_numa_binding"] is None or isinstance(found["no_numa_binding"], str)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_named(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found["faults"] == []
    hardware = found["hardware"]
    assert isinstance(hardware, dict)
    assert int(hardware["GPUs"]) >= 1
    assert "none" not in hardware.values(), "name, driver and CUDA are known"
