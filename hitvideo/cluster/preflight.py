"""The pre-flight of a job: checks that a node is fit to train, on every node before any collective.

    srun --ntasks-per-node=1 python -m hitvideo.cluster.preflight FOLDER DEVICES

Disk, shared memory, devices and the video decoder are really used. The result goes to FOLDER/HOST.json:
{"faults": […], "versions": {…}, "seconds": …}. Without it, a job with one broken node hangs at its first collective, and
nothing shows which node it is.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

from hitvideo.cluster.checks import check_folder, failures, machine_checks, versions
from hitvideo.files import replace_json


def main(folder: Path, devices: int) -> int:
    """Run every check and write the report. Always returns 0: a fault is in the report."""
    started = time.monotonic()
    failed = failures({"run directory": lambda: check_folder(folder), **machine_checks(devices)})
    report = {
        "faults": [f"{name}: {fault}" for name, fault in failed.items()],
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
    }
    replace_json(folder / f"{socket.gethostname().split('.')[0]}.json", report)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
