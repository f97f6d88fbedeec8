"""How a node is wired: its network ports, the PCIe lanes of its GPUs, the NVLinks between them; and errors of GPUs' memory.

These are facts, in words that are equal on equal nodes: a port that is down, or a GPU with half of its lanes, shows in
comparison with the other nodes. Where the system or a container hides something, it is "none".
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hitvideo.cluster import machine

_GPU = ("0x0302", "0x1200")  # PCI classes: 3D controller, processing accelerator; not the display of a service processor
_SECONDS = 30.0
_ERRORS = "ecc.errors.uncorrected.volatile.total"


def wiring() -> dict[str, str]:
    """Number and kind of each sort of link, as in `8 × ACTIVE 400 Gb/sec (4X NDR)`."""
    ports, devices = machine.SYSTEM / "class/infiniband", machine.SYSTEM / "bus/pci/devices"
    states = [f"{_read(port / 'state').rpartition(' ')[2]} {_read(port / 'rate')}" for port in ports.glob("*/ports/*")]
    gpus = [device for device in devices.glob("*") if _read(device / "class").startswith(_GPU)]
    lanes = [f"x{_read(gpu / 'current_link_width')}" for gpu in gpus]
    links = re.findall(r"Link \d+: (.+)", _nvidia_smi("nvlink", "--status"))
    return {"network ports": _counted(states), "PCIe lanes": _counted(lanes), "NVLinks": _counted(links)}


def check_memory_errors() -> None:
    """Raise RuntimeError if a GPU's memory had an error that could not be corrected: it may come again until a reset."""
    for line in _nvidia_smi(f"--query-gpu=index,{_ERRORS}", "--format=csv,noheader").splitlines():
        number, _, errors = line.partition(", ")
        if errors.isdigit() and int(errors) > 0:  # GPUs without ECC say [N/A]
            raise RuntimeError(f"GPU {number} has {errors} uncorrected memory errors since its driver began: reset it")


def _counted(found: Iterable[str]) -> str:
    return ", ".join(f"{number} × {what.strip()}" for what, number in sorted(Counter(found).items())) or "none"


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return "unknown"


def _nvidia_smi(*words: str) -> str:
    """What the program prints; nothing where there is none, or if it fails: other checks find a GPU that does not answer."""
    if shutil.which("nvidia-smi") is None:
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    return ""
