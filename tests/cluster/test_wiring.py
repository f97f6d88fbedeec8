"""How a node is wired, from made-up files of Linux and a made-up nvidia-smi; tests marked gpu ask the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hitvideo.cluster import machine, wiring

SMI = r"""#!/bin/sh
if [ "$1" = nvlink ]; then
  printf 'GPU 0: NVIDIA H100 (UUID: GPU-1)\n\t Link 0: 26.562 GB/s\n\t Link 1: <inactive>\n'
  printf 'GPU 1: NVIDIA H100 (UUID: GPU-2)\n\t Link 0: 26.562 GB/s\n'
else
  printf '0, 0\n1, %s\n' "$ERRORS"
fi
"""
PORTS = {"mlx5_0": "4: ACTIVE", "mlx5_1": "4: ACTIVE", "mlx5_2": "1: DOWN"}
DEVICES = {"0000:19:00.0": ("0x030200", 16), "0000:3b:00.0": ("0x030200", 8), "0000:02:00.0": ("0x030000", 1)}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with two GPUs, a display, and three ports of which one is down. Returns the root of its /sys."""
    for name, state in PORTS.items():
        folder = tmp_path / f"class/infiniband/{name}/ports/1"
        folder.mkdir(parents=True)
        (folder / "state").write_text(f"{state}\n")
        (folder / "rate").write_text("400 Gb/sec (4X NDR)\n")
    for address, (kind, width) in DEVICES.items():
        folder = tmp_path / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "class").write_text(f"{kind}\n")
        (folder / "current_link_width").write_text(f"{width}\n")
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def nvidia_smi(node: Path, text: str) -> None:
    path = node / "bin/nvidia-smi"
    path.write_text(text)
    path.chmod(0o755)


def test_what_is_down_or_narrow_shows(node: Path) -> None:
    nvidia_smi(node, SMI)
    assert wiring.wiring() == {
        "network ports": "2 × ACTIVE 400 Gb/sec (4X NDR), 1 × DOWN 400 Gb/sec (4X NDR)",
        "PCIe lanes": "1 × x16, 1 × x8",
        "NVLinks": "2 × 26.562 GB/s, 1 × <inactive>",
    }


def test_what_a_machine_hides_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(wiring.wiring().values()) == {"none"}
    wiring.check_memory_errors()


@pytest.mark.parametrize(("errors", "bad"), [("0", False), ("[N/A]", False), ("3", True)])
def test_errors_of_memory_are_a_fault(node: Path, monkeypatch: pytest.MonkeyPatch, errors: str, bad: bool) -> None:
    nvidia_smi(node, SMI)
    monkeypatch.setenv("ERRORS", errors)
    if not bad:
        return wiring.check_memory_errors()
    with pytest.raises(RuntimeError, match="GPU 1 has 3 uncorrected"):
        wiring.check_memory_errors()
    return None


def test_a_broken_nvidia_smi_is_no_fault_of_memory(node: Path) -> None:
    nvidia_smi(node, "#!/bin/sh\necho '0, 9'\nexit 9\n")
    wiring.check_memory_errors()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_has_lanes_and_no_errors() -> None:
    wiring.check_memory_errors()
    assert wiring._nvidia_smi("nvlink", "--status").count("GPU ") >= torch.cuda.device_count()
