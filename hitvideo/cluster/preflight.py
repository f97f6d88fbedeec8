"""The pre-flight of a job: checks that a node is fit to train, on every node before any collective.

    srun --ntasks-per-node=1 python -m hitvideo.cluster.preflight FOLDER RANKS

Disk, shared memory, devices and the video decoder are really used. The result goes to FOLDER/NODE.json:
{"faults": […], "versions": {…}, "hardware": {…}, "wiring": {…}, "cpus": …, "no_numa_binding": …, "seconds": …}. Without it, a
job with one broken node hangs at its first collective, and nothing shows which node it is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from hitvideo.cluster import machine
from hitvideo.cluster.checks import check_cpus, check_folder, failures, machine_checks, versions
from hitvideo.cluster.wiring import check_memory_errors, wiring
from hitvideo.files import replace_json

TRAINS_ON = "devices"
"""File in the attempt's folder: gpu or cpu, from the run's settings."""


def main(folder: Path, ranks: int) -> int:
    """Run every check and write the report. Always returns 0: a fault is in the report."""
    started = time.monotonic()
    wanted = folder / TRAINS_ON
    on_cpu = wanted.is_file() and wanted.read_text().strip() == "cpu"
    granted = machine.granted_gpus(os.environ)
    report: dict[str, Any] = {"versions": versions(), "cpus": len(os.sched_getaffinity(0))}
    checks = {
        "run directory": lambda: check_folder(folder),
        **machine_checks(ranks, needed=granted > 0 and not on_cpu),
        "wiring": lambda: report.update(wiring=wiring()),
        "hardware": lambda: report.update(hardware=machine.hardware(), no_numa_binding=machine.no_numa_binding()),
    }
    if not on_cpu:
        checks["GPU memory"] = check_memory_errors
    if "SLURM_JOB_ID" in os.environ and not on_cpu:
        checks["CPUs"] = lambda: check_cpus(ranks)
    report["faults"] = [f"{name}: {fault}" for name, fault in failures(checks).items()]
    report["seconds"] = round(time.monotonic() - started, 2)
    replace_json(folder / f"{machine.node_name(os.environ)}.json", report)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
