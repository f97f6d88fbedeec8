"""One attempt of a Slurm job: who owns the run, which nodes are unfit, what failed, whether to requeue.

    python -m hitvideo.cluster.attempt begin RUN.yaml key=value …       takes the run over and prints its directory
    python -m hitvideo.cluster.attempt unfit FOLDER HOST …              prints the hosts whose pre-flight failed or is missing
    python -m hitvideo.cluster.attempt end RUN_DIRECTORY CODE ASKED     logs what happened; exits with 0: done, 75: requeue,
                                                                        anything else: give up

`slurm/launch.sh` calls these three from the batch script. They are light, so wrong settings fail within seconds.

    runs/NAME/OWNER                      the attempt that may write: JOB.RESTART
    runs/NAME/attempts/JOB.RESTART/      pre-flight reports by host, faults by rank
    runs/NAME/attempts.jsonl             one line for every attempt that ended: its code, the newest checkpoint
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hitvideo.checkpoints.listing import complete
from hitvideo.files import replace_file
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.ownership import ENVIRONMENT
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, EXIT_USER, guarded
from hitvideo.settings.programs import TokenizeRun, check_layout, load_settings

MOST_RESTARTS = 20
MOST_IDLE_FAULTS, MOST_IDLE_STOPS = 2, 3
"""Attempts in a row that may end without a new checkpoint. A job may be preempted twice before its first step, but with a
time limit shorter than the lead of its signal it would be requeued forever."""
_SHOWN_OF_A_TRACEBACK = 12


def begin(words: Sequence[str]) -> Path:
    """Check the settings, take the run over, and return its directory. Raises ConfigError if the user can fix it."""
    settings = load_settings(words[0], words[1:])
    if not isinstance(settings, TokenizeRun):
        check_layout(settings)
    run = RunDirectory(settings.run.directory)
    (run.attempts / _me()).mkdir(parents=True, exist_ok=True)
    replace_file(run.owner, _me() + "\n")
    run.stop.unlink(missing_ok=True)
    return run.path


def unfit(folder: Path, hosts: Sequence[str]) -> dict[str, str]:
    """Host → why it must not train, from the reports that `hitvideo.cluster.preflight` left in `folder`."""
    reports = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    bad = {host: "its pre-flight did not report" for host in hosts if host not in reports}
    bad |= {host: "; ".join(report["faults"]) for host, report in reports.items() if report["faults"]}
    kinds: dict[str, list[str]] = {}
    for host, report in reports.items():
        kinds.setdefault(json.dumps(report["versions"], sort_keys=True), []).append(host)
    usual = max(kinds.values(), key=len, default=[])
    for versions, group in kinds.items():
        if group is not usual:
            bad |= {host: f"has other packages than the {len(usual)} others: {versions}" for host in group if host not in bad}
    return bad


def first_fault(folder: Path) -> dict[str, Any] | None:
    """The earliest fault of all ranks; the others follow from it."""
    faults = [json.loads(path.read_text()) for path in folder.glob("fault-*.json")]
    return min(faults, key=lambda fault: float(fault["time"]), default=None)


def end(path: Path, code: int, asked: bool) -> int:
    """Decide what happens after an attempt at the run in `path`, and log why; returns the exit code of the job.

    Only DONE means done: srun may return 0 after a node failure, and 143 for any fault. `asked`: Slurm asked it to stop.
    """
    run = RunDirectory(path)
    if run.done:
        return EXIT_DONE
    fault = first_fault(run.attempts / _me())
    if fault:
        _say(f"the first fault of all ranks: rank {fault['rank']} on {fault['host']}: {fault['what']}")
        _say("".join(fault["traceback"][-_SHOWN_OF_A_TRACEBACK:]).rstrip())
        if fault["refused"]:
            return EXIT_USER
    elif not asked:
        _say(f"no rank left a traceback (code {code}): killed from outside, out of memory, or its node is lost")
    earlier = [json.loads(line) for line in run.attempts_log.read_text().splitlines()] if run.attempts_log.is_file() else []
    newest = next((checkpoint.name for checkpoint in reversed(complete(run.checkpoints))), "")
    with run.attempts_log.open("a") as file:
        file.write(json.dumps({"attempt": _me(), "code": code, "asked": asked, "checkpoint": newest}) + "\n")
    most = int(os.environ.get("MOST_RESTARTS", str(MOST_RESTARTS)))
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= most:
        _say(f"restarted {most} times (MOST_RESTARTS): not requeued")
        return EXIT_FAULT
    idle = 1 + sum(1 for _ in takewhile(lambda before: before["checkpoint"] == newest, reversed(earlier)))
    if idle >= (MOST_IDLE_STOPS if asked else MOST_IDLE_FAULTS):
        _say(f"{idle} attempts without a new checkpoint (still {newest or 'none'}): not requeued")
        if asked:
            _say("each was asked to stop before its first step: is --time longer than the lead of --signal=B:USR1@SECONDS?")
        return EXIT_FAULT
    _say("asked to stop by a signal: requeued" if asked else f"ended with code {code}: requeued")
    return EXIT_STOPPED


def _me() -> str:
    return os.environ.get(ENVIRONMENT, "local.0")


def _say(text: str) -> None:
    print(f"attempt {_me()}: {text}", file=sys.stderr)


def main(words: list[str]) -> int:
    """Run one of the three commands of the module's docstring."""
    command, *rest = words or [""]
    if command == "begin" and rest:
        print(begin(rest))
        return EXIT_DONE
    if command == "unfit" and rest:
        bad = unfit(Path(rest[0]), rest[1:])
        for host, reason in bad.items():
            _say(f"{host} is unfit: {reason}")
        print(",".join(sorted(bad)))
        return EXIT_DONE
    if command == "end" and len(rest) == 3:
        return end(Path(rest[0]), int(rest[1]), rest[2] == "1")
    print(__doc__, file=sys.stderr)
    return EXIT_USER


if __name__ == "__main__":
    guarded(main)
