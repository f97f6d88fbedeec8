"""Is this node fit to train? Looked at on every node by itself, before any rank waits for another.

    srun --ntasks-per-node=1 python -m hitvideo.cluster.preflight FOLDER DEVICES

Disk, shared memory, devices and the video decoder are used for real, and what is found goes to FOLDER/HOST.json:
{"faults": […], "versions": {…}, "seconds": …}. A job with one broken node otherwise hangs at the first collective, with
nothing to say which node it was.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hitvideo.cluster.checks import check_decoder, check_devices, check_folder, versions
from hitvideo.files import replace_json

_MIB = 1 << 20
_SHARED_MEMORY = Path("/dev/shm")


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
    replace_json(folder / f"{host}.json", report)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
