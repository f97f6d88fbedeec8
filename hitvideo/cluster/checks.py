"""Checks of one machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch", "deepspeed", "megatron-core", "numpy", "safetensors", "av", "webdataset", "sentencepiece", "mlflow",
    "flash-attn", "apex",
)  # fmt: skip


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

    from hitvideo.hierarchy import ClipShape
    from hitvideo.settings.data import LimitsSection
    from hitvideo.video.decode import decode_clip
    from hitvideo.video.encode import encode_mp4

    clip = ClipShape(frames=4, height=32, width=32, fps=8)
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


def doctor() -> dict[str, str]:
    """What this machine has, and which fast paths are live."""
    import torch

    from hitvideo.ops.attention import flash_missing
    from hitvideo.ops.norm import apex_missing

    device = "cuda" if torch.cuda.is_available() else "cpu"
    findings = {"python": platform.python_version(), "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    for package in PACKAGES:
        try:
            findings[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            findings[package] = "not installed"
    no_flash, no_apex = flash_missing(device, torch.bfloat16), apex_missing(device)
    findings["attention"] = f"sdpa ({no_flash})" if no_flash else "flash"
    findings["norm"] = f"torch ({no_apex})" if no_apex else "apex"
    findings["collectives"] = "nccl" if device == "cuda" else "gloo"
    return findings
