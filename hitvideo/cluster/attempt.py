"""One attempt of a Slurm job: who owns the run, which nodes are unfit, what failed, whether to go on.

    python -m hitvideo.cluster.attempt begin RUN.yaml key=value …       takes the run over and prints its directory
    python -m hitvideo.cluster.attempt unfit|exclude|numa FOLDER HOST … what the pre-flight's reports say (nodes.py)
    python -m hitvideo.cluster.attempt end RUN_DIRECTORY CODE ASKED     logs what happened; exits with 0: done, 75: go on,
                                                                        anything else: give up. CODE `unfit`: too few fit nodes
    scontrol show job -o JOB | python -m hitvideo.cluster.attempt options GPUS HOST,…       options to submit it again

`slurm/launch.sh` calls these from the batch script. They are light, so wrong settings fail within seconds.

    runs/NAME/OWNER                      the attempt that may write: JOB.RESTART
    runs/NAME/attempts/JOB.RESTART/      pre-flight reports by node, faults by rank; `chain` and `devices`: two settings
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
from hitvideo.cluster.nodes import excludable, numa_binding, unfit
from hitvideo.cluster.preflight import TRAINS_ON
from hitvideo.cluster.resubmit import options_of_a_job
from hitvideo.files import replace_file
from hitvideo.runs.changes import allowed_changes
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.ownership import ENVIRONMENT
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, EXIT_USER, guarded
from hitvideo.settings.programs import TokenizeRun, check_layout, load_settings

MOST_RESTARTS = 20
MOST_IDLE = {"fault": 2, "stop": 3, "unfit": 4}
"""Attempts of one kind that may end without a new checkpoint. A job may be preempted twice before its first step, but with a
time limit shorter than the lead of its signal it would be requeued forever. A broken node says little about the run."""
CHAIN = "HITVIDEO_CHAIN"
"""Names in the environment the first of several jobs each of which submitted the next."""
_SHOWN_OF_A_TRACEBACK = 12


def begin(words: Sequence[str]) -> Path:
    """Check the settings, take the run over, and return its directory. Raises ConfigError if the user can fix it."""
    words, _ = allowed_changes(words)  # the ranks have them on their own command lines
    settings = load_settings(words[0], words[1:])
    run = RunDirectory(settings.run.directory)
    if not isinstance(settings, TokenizeRun):
        check_layout(settings)
        if run.done and int(run.done_mark.read_text() or 0) < settings.train.steps:
            run.done_mark.unlink()  # it is to be extended
    (run.attempts / _me()).mkdir(parents=True, exist_ok=True)
    replace_file(run.owner, _me() + "\n")
    run.stop.unlink(missing_ok=True)
    if not isinstance(settings, TokenizeRun):
        (run.attempts / _me() / "chain").write_text(settings.cluster.slurm.chain + "\n")
        (run.attempts / _me() / TRAINS_ON).write_text(settings.cluster.trains_on + "\n")
    return run.path


def first_fault(folder: Path) -> dict[str, Any] | None:
    """The earliest fault of all ranks; the others follow from it."""
    faults = [json.loads(path.read_text()) for path in folder.glob("fault-*.json")]
    return min(faults, key=lambda fault: float(fault["time"]), default=None)


def end(path: Path, code: int | None, asked: bool) -> int:
    """Decide what happens after an attempt at the run in `path`, and log why; returns the exit code of the job.

    Only DONE means done: srun may return 0 after a node failure, and 143 for any fault. None: no ranks were started, because
    too few nodes were fit. `asked`: Slurm asked it to stop.
    """
    run = RunDirectory(path)
    if run.done:
        return EXIT_DONE
    fault = first_fault(run.attempts / _me())
    kind = "stop" if asked else "unfit" if code is None else "fault"
    if fault:
        _say(f"the first fault of all ranks: rank {fault['rank']} on {fault['host']}: {fault['what']}")
        _say("".join(fault["traceback"][-_SHOWN_OF_A_TRACEBACK:]).rstrip())
        if fault["refused"]:
            return EXIT_USER
    elif kind == "fault":
        _say(f"no rank left a traceback (code {code}): killed from outside, out of memory, or its node is lost")
    lines = run.attempts_log.read_text().splitlines() if run.attempts_log.is_file() else []
    earlier = [row for row in map(json.loads, lines) if row.get("chain") == _chain()]
    newest = next((checkpoint.name for checkpoint in reversed(complete(run.checkpoints))), "")
    row = {"attempt": _me(), "chain": _chain(), "kind": kind, "code": code, "asked": asked, "checkpoint": newest}
    with run.attempts_log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    most = int(os.environ.get("MOST_RESTARTS", str(MOST_RESTARTS)))
    if _restarts(earlier) >= most:
        _say(f"restarted {most} times (MOST_RESTARTS): not requeued")
        return EXIT_FAULT
    since = takewhile(lambda before: before["checkpoint"] == newest, reversed(earlier))
    idle = 1 + sum(before["kind"] == kind for before in since)
    if idle >= MOST_IDLE[kind]:
        _say(f"{idle} attempts without a new checkpoint (still {newest or 'none'}): not requeued")
        if asked:
            _say("each was asked to stop before its first step: is --time longer than the lead of --signal=B:USR1@SECONDS?")
        return EXIT_FAULT
    why = {"stop": "asked to stop by a signal", "unfit": "too few fit nodes", "fault": f"ended with code {code}"}
    _say(f"{why[kind]}: requeued")
    return EXIT_STOPPED


def _restarts(earlier: Sequence[dict[str, Any]]) -> int:
    """Restarts so far, without those after a stop on request that left a new checkpoint: each time limit ends with one."""
    stops = 0
    for before, row in zip([{"checkpoint": ""}, *earlier], earlier, strict=False):
        stops += row["kind"] == "stop" and row["checkpoint"] != before["checkpoint"]
    return max(int(os.environ.get("SLURM_RESTART_COUNT", "0")), len(earlier)) - stops


def _chain() -> str:
    """The job that this attempt belongs to: the first, if jobs submitted each other."""
    return os.environ.get(CHAIN) or _me().partition(".")[0]


def _me() -> str:
    return os.environ.get(ENVIRONMENT, "local.0")


def _say(text: str) -> None:
    print(f"attempt {_me()}: {text}", file=sys.stderr)


def main(words: list[str]) -> int:
    """Run one of the commands of the module's docstring."""
    command, *rest = words or [""]
    if command == "begin" and rest:
        print(begin(rest))
    elif command in ("unfit", "exclude", "numa") and rest:
        folder, hosts = Path(rest[0]), rest[1:]
        if command == "numa":
            print(numa_binding(folder, hosts))
        elif command == "exclude":
            print(",".join(excludable(folder, hosts)))
        else:
            bad = unfit(folder, hosts)
            for host, reason in bad.items():
                _say(f"{host} is unfit: {reason}")
            print(",".join(sorted(bad)))
    elif command == "end" and len(rest) == 3:
        return end(Path(rest[0]), None if rest[1] == "unfit" else int(rest[1]), rest[2] == "1")
    elif command == "options" and len(rest) == 2:
        print("\n".join(options_of_a_job(sys.stdin.read(), *rest)))
    else:
        print(__doc__, file=sys.stderr)
        return EXIT_USER
    return EXIT_DONE


if __name__ == "__main__":
    guarded(main)
