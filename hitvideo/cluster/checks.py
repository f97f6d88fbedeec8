"""The checks of one machine that `hitvideo doctor` and the pre-flight of a job share, and the versions it has."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hitvideo.cluster.machine import LEAST_CPUS
from hitvideo.files import process_name

PACKAGES = (
    "torch", "deepspeed", "megatron-core", "numpy", "safetensors", "av", "webdataset", "sentencepiece", "mlflow",
    "flash-attn", "apex",
)  # fmt: skip
_MIB = 1 << 20
_SHARED_MEMORY = Path("/dev/shm")


def machine_checks(devices: int, needed: bool = False) -> dict[str, Callable[[], None]]:
    """Name → a check that raises if the machine fails it. `devices`: the GPUs wanted, if there are any or they are needed."""
    return {
        "temporary folder": lambda: check_folder(Path(tempfile.gettempdir()), _MIB),
        "shared memory": lambda: check_folder(_SHARED_MEMORY, 8 * _MIB),
        "devices": lambda: check_devices(devices, needed),
        "decoder": check_decoder,
    }


def failures(checks: Mapping[str, Callable[[], None]]) -> dict[str, str]:
    """Run every check; name → what went wrong, for those that failed."""
    found = {}
    for name, check in checks.items():
        try:
            check()
        except Exception as error:  # whatever it is, it is a finding about this machine
            found[name] = f"{type(error).__name__}: {error}"
    return found


def check_folder(folder: Path, size: int = _MIB) -> None:
    """Write, sync and read back `size` bytes."""
    path = folder / f".check-{process_name()}"
    content = os.urandom(4096) * (size // 4096)
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != content:
            raise OSError(f"{folder}: read back different bytes than were written")
    finally:
        path.unlink(missing_ok=True)


def check_devices(wanted: int, needed: bool) -> None:
    """Multiply two matrices on every GPU; on a machine without GPUs, unless they are needed, on the CPU."""
    import torch

    found = torch.cuda.device_count()
    if found < wanted and (found or needed):
        why = "" if found else f"; torch {torch.__version__} may not fit the driver, or the container hides them"
        raise RuntimeError(f"{found} of {wanted} GPUs are visible{why}")
    devices = [torch.device("cuda", number) for number in range(wanted)] if found else [torch.device("cpu")]
    for device in devices:
        ones = torch.ones(512, 512, device=device)
        if not torch.equal(ones @ ones, torch.full_like(ones, 512)):
            raise RuntimeError(f"{device} multiplies wrong")


def check_cpus(ranks: int) -> None:
    """Whether the node's ranks have the CPU cores they need: with too few, a run is slow without any error."""
    cpus = len(os.sched_getaffinity(0))
    if cpus < LEAST_CPUS * ranks:
        raise RuntimeError(f"the job may use {cpus} CPUs for {ranks} ranks, which need {LEAST_CPUS} each; ask for more a task")


def check_decoder() -> None:
    """Encode and decode a clip."""
    import numpy as np

    from hitvideo.hierarchy import ClipShape
    from hitvideo.settings.data import LimitsSection
    from hitvideo.video.decode import decode_clip
    from hitvideo.video.encode import encode_mp4

    clip = ClipShape(frames=4, height=32, width=32, fps=8)
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    if abs(float(decode_clip(encode_mp4(grey, 8), clip, LimitsSection()).mean()) - 128) > 4:
        raise RuntimeError("a grey clip does not decode grey")


def versions() -> dict[str, str]:
    """Python's and the packages' versions, which must be equal on all nodes."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
