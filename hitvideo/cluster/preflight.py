"""Is this node fit to train? Looked at on every node by itself, before any rank waits for another.

    srun --ntasks-per-node=1 python -m hitvideo.cluster.preflight FOLDER DEVICES

Disk, shared memory, devices and the video decoder are used for real, and what is found goes to FOLDER/HOST.json:
{"faults": […], "versions": {…}, "seconds": …}. A job with one broken node otherwise hangs at the first collective, with
nothing to say which node it was.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "deepspeed", "megatron-core", "numpy", "safetensors", "av", "flash-attn")
_MIB = 1 << 20
_SHARED_MEMORY = Path("/dev/shm")


def check_folder(folder: Path, size: int) -> None:
    """Write, sync and read back `size` bytes."""
    path = folder / f".preflight-{socket.gethostname()}-{os.getpid()}"
    content = os.urandom(4096) * (size // 4096)
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.read_bytes() != content:
            raise OSError(f"{folder}: what was written reads back otherwise")
    finally:
        path.unlink(missing_ok=True)


def check_devices(wanted: int) -> None:
    """Every GPU multiplies two matrices right; on a machine without GPUs the CPU does."""
    import torch

    found = torch.cuda.device_count()
    if found and found < wanted:
        raise RuntimeError(f"{found} of {wanted} GPUs are visible")
    devices = [torch.device("cuda", number) for number in range(wanted)] if found else [torch.device("cpu")]
    for device in devices:
        ones = torch.ones(512, 512, device=device)
        if not torch.equal(ones @ ones, torch.full_like(ones, 512)):
            raise RuntimeError(f"{device} multiplies wrong")


def check_decoder() -> None:
    """A clip through the encoder and the decoder."""
    import numpy as np

    from hitvideo.hierarchy import Clip
    from hitvideo.settings.training import LimitsSection
    from hitvideo.video.decode import decode_clip, encode_mp4

    clip = Clip(frames=4, height=32, width=32, fps=8)
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    if abs(float(decode_clip(encode_mp4(grey, 8), clip, LimitsSection()).mean()) - 128) > 4:
        raise RuntimeError("a grey clip does not decode grey")


def versions() -> dict[str, str]:
    """What must be equal on all nodes."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def main(folder: Path, devices: int) -> int:
    """Run every check and write the report; returns 0, since a fault is the report's to tell."""
    started = time.monotonic()
    checks: dict[str, Callable[[], None]] = {
        "run directory": lambda: check_folder(folder, _MIB),
        "temporary folder": lambda: check_folder(Path(tempfile.gettempdir()), _MIB),
        "shared memory": lambda: check_folder(_SHARED_MEMORY, 8 * _MIB),
        "device": lambda: check_devices(devices),
        "decoder": check_decoder,
    }
    faults = []
    for name, check in checks.items():
        try:
            check()
        except Exception as error:  # whatever it is, it is this node's fault and must be told
            faults.append(f"{name}: {type(error).__name__}: {error}")
    report = {"faults": faults, "versions": versions(), "seconds": round(time.monotonic() - started, 2)}
    host = socket.gethostname().split(".")[0]
    temporary = folder / f".{host}.json"
    temporary.write_text(json.dumps(report))
    os.replace(temporary, folder / f"{host}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
