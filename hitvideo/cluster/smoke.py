"""The verdict of `slurm/smoke.sh`: did all nodes pass, are they wired alike, did all ranks meet, training end, and a second
start resume the first?

    python -m hitvideo.cluster.smoke FOLDER NODES RANKS_PER_NODE

FOLDER holds `run/`, the run directory, and `before.jsonl`, its metrics at the end of the first start.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hitvideo.cluster.nodes import differences
from hitvideo.parallel.links import SLOW, all_reduce_rate, expected_rate, nodes_of
from hitvideo.runs.directory import RunDirectory, read_metrics
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT
from hitvideo.settings.programs import TokenizeRun


def findings(folder: Path, nodes: int, per_node: int) -> dict[str, tuple[bool, str]]:
    """Question → whether the answer is good, and what was found."""
    run = RunDirectory(folder / "run")
    attempts = sorted(run.attempts.glob("*/"))
    paths = sorted(attempts[-1].glob("*.json")) if attempts else []
    found_by = {path.stem: json.loads(path.read_text()) for path in paths}
    reports = {host: report for host, report in found_by.items() if "faults" in report}
    faults = [fault for report in reports.values() for fault in report["faults"]]
    hardware = [report["hardware"] for report in reports.values() if "hardware" in report]
    gpus = sorted({f"{each['GPUs']} × {each['GPU']}" for each in hardware})
    wiring = {host: report.get("wiring", {}) for host, report in reports.items()}
    unlike = "; ".join(f"{host} differs from {text}" for host, text in sorted(differences(wiring, faulty=()).items()))
    alike = "; ".join(f"{what}: {text}" for what, text in next(iter(wiring.values()), {}).items())
    meeting: dict[str, Any] = json.loads(run.meeting.read_text()) if run.meeting.is_file() else {"ranks": []}
    hosts = {each["host"] for each in meeting["ranks"]}
    first, all_rows = read_metrics(folder / "before.jsonl"), run.metrics()
    checked = "; ".join(faults) or f"{len(reports)} checked, GPUs: {', '.join(gpus)}"
    found = {
        "nodes": (len(reports) >= nodes and not faults, checked),
        "wiring": (not unlike, unlike or alike),
        "ranks": (len(meeting["ranks"]) == nodes * per_node, f"{len(meeting['ranks'])} met, on {len(hosts)} nodes"),
        "training": (run.done, f"{len(all_rows)} steps logged"),
        # The rows hold measured times: a start from the beginning would undo them and write others.
        "resuming": (bool(first) and all_rows[: len(first)] == first and all_rows != first, f"from {len(first)} steps"),
    }
    if found["ranks"][0]:
        found["all-reduce"] = _all_reduce(run, meeting)
    return found


def _all_reduce(run: RunDirectory, meeting: dict[str, Any]) -> tuple[bool, str]:
    """The rate at which each rank sends in an all-reduce, compared with the cluster's links; on CPUs it is only shown."""
    assert not isinstance(run.settings, TokenizeRun)
    cluster, hosts = run.settings.cluster, [each["host"] for each in meeting["ranks"]]
    rate = all_reduce_rate(meeting["all_reduce_mib"], meeting["all_reduce_seconds"], len(hosts))
    expected = expected_rate(nodes_of(hosts), cluster)
    good = rate >= SLOW * expected or len(hosts) == 1 or cluster.trains_on == "cpu"
    return good, f"{rate:.1f} GB/s of {expected:.0f} by cluster.near_gbs and nic_gbs"


def main(words: list[str]) -> int:
    """Print the findings and the verdict, and return the exit code."""
    found = findings(Path(words[0]), int(words[1]), int(words[2]))
    for name, (good, text) in found.items():
        print(f"{'ok  ' if good else 'BAD '} {name:10} {text}")
    bad = [name for name, (good, _) in found.items() if not good]
    print(f"smoke: FAILED: {', '.join(bad)}" if bad else "smoke: PASSED")
    return EXIT_FAULT if bad else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
