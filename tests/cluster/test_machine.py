"""What a node says of itself: its name in Slurm, GPUs it was given, CPUs near them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hitvideo.cluster import machine


def test_a_node_has_the_name_that_slurm_gives_it() -> None:
    assert machine.node_name({"SLURMD_NODENAME": "compute-1"}) == "compute-1"
    assert machine.node_name({}) == os.uname().nodename.split(".")[0]


@pytest.mark.parametrize(
    ("environment", "granted"),
    [
        ({}, 0),  # a machine's GPUs are nobody's grant
        ({"SLURM_JOB_ID": "1"}, 3),  # a site whose GPUs are no resource of Slurm's
        ({"SLURM_JOB_ID": "1", "SLURM_GPUS_ON_NODE": "8"}, 8),
        ({"SLURM_JOB_ID": "1", "SLURM_GPUS_ON_NODE": "0"}, 0),
    ],
)
def test_granted_gpus(environment: dict[str, str], granted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert machine.granted_gpus(environment) == granted


@pytest.mark.parametrize(("text", "numbers"), [("0-2,8\n", {0, 1, 2, 8}), ("5", {5}), ("\n", set())])
def test_cpu_lists(text: str, numbers: set[int]) -> None:
    assert machine.cpu_list(text) == numbers


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56\nGCC version: 12.2.0", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build", "580.65"),
        ("6.8.5\n", "6.8.5"),
    ],
)
def test_the_driver_is_in_the_report(text: str, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(machine, "DRIVERS", (tmp_path / "absent", tmp_path / "version"))
    assert machine.hardware()["driver"] == driver


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with a GPU at each of two NUMA nodes of four CPUs. Returns the root of its /sys."""
    import torch

    for gpu in range(2):
        device, node = tmp_path / f"bus/pci/devices/0000:{gpu:02x}:00.0", tmp_path / f"devices/system/node/node{gpu}"
        device.mkdir(parents=True)
        (device / "numa_node").write_text(f"{gpu}\n")
        node.mkdir(parents=True)
        (node / "cpulist").write_text(f"{4 * gpu}-{4 * gpu + 3}\n")
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda number: SimpleNamespace(pci_domain_id=0, pci_bus_id=number, pci_device_id=0),
    )
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return tmp_path


def test_ranks_are_bound_only_where_each_gpu_has_a_near_cpu(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 7})
    assert machine.no_numa_binding() is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    assert "GPU 1" in str(machine.no_numa_binding())


def test_one_numa_node_is_written_as_minus_one(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    (two_gpus / "bus/pci/devices/0000:01:00.0/numa_node").write_text("-1\n")
    assert machine.no_numa_binding() is None


def test_a_machine_that_hides_its_nodes_binds_nothing(two_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (two_gpus / "devices/system/node/node1/cpulist").unlink()
    assert "GPU 1" in str(machine.no_numa_binding())
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert "numactl" in str(machine.no_numa_binding())
