"""One attempt of a Slurm job at a run: whose the run directory is, which nodes are unfit, what went wrong, and what next.

    python -m hitvideo.cluster.attempt begin RUN.yaml key=value …       takes the run over and prints its directory
    python -m hitvideo.cluster.attempt unfit FOLDER HOST …              prints the hosts whose pre-flight failed or is missing
    python -m hitvideo.cluster.attempt end RUN_DIRECTORY CODE ASKED     says what happened; exits with 0: done, 75: requeue,
                                                                        else: give up

`slurm/launch.sh` calls these three from the batch script; they are light, so a wrong config fails in seconds.

    runs/NAME/OWNER                      the attempt that may write: JOB.RESTART
    runs/NAME/attempts/JOB.RESTART/      pre-flight reports by host, faults by rank
    runs/NAME/attempts.jsonl             one line for every attempt that ended: code, newest checkpoint
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.files import replace_file
from hitvideo.runs.ownership import ENVIRONMENT
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, EXIT_USER
from hitvideo.settings import programs
from hitvideo.settings.programs import check_layout

MOST_RESTARTS = 20
MOST_IDLE_FAULTS, MOST_IDLE_STOPS = 2, 3
"""Attempts in a row that end without a new checkpoint. A job may be preempted twice before its first step, but a time limit
shorter than the lead of its signal would have it requeued for ever."""
_TOLD_OF_A_TRACEBACK = 12


def begin(words: Sequence[str]) -> Path:
    """Check the config, take the run over, and return its directory. Raises ConfigError for what the user can mend."""
    settings = programs.load_settings(words[0], words[1:])
    if not isinstance(settings, programs.TokenizeRun):
        check_layout(settings)
    run = settings.run.directory
    (run / "attempts" / _me()).mkdir(parents=True, exist_ok=True)
    replace_file(run / "OWNER", _me() + "\n")
    (run / "STOP").unlink(missing_ok=True)
    return run


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
    """The earliest of all ranks: the others' follow from it."""
    faults = [json.loads(path.read_text()) for path in folder.glob("fault-*.json")]
    return min(faults, key=lambda fault: float(fault["time"]), default=None)


def end(run: Path, code: int, asked: bool) -> int:
    """What to do after an attempt. Only DONE means done: srun may return 0 after a node failure, and 143 for any fault."""
    if (run / "DONE").is_file():
        return EXIT_DONE
    fault = first_fault(run / "attempts" / _me())
    if fault:
        _say(f"the first fault of all ranks: rank {fault['rank']} on {fault['host']}: {fault['what']}")
        _say("".join(fault["traceback"][-_TOLD_OF_A_TRACEBACK:]).rstrip())
        if fault["refused"]:
            return EXIT_USER
    elif not asked:
        _say(f"no rank left a traceback (code {code}): killed from outside, out of memory, or its node is lost")
    history = run / "attempts.jsonl"
    earlier = [json.loads(line) for line in history.read_text().splitlines()] if history.is_file() else []
    newest = _newest_checkpoint(run)
    this = {"attempt": _me(), "code": code, "asked": asked, "checkpoint": newest}
    with history.open("a") as file:
        file.write(json.dumps(this) + "\n")
    most = int(os.environ.get("MOST_RESTARTS", str(MOST_RESTARTS)))
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= most:
        _say(f"restarted {most} times (MOST_RESTARTS): not requeued")
        return EXIT_FAULT
    idle = 1 + sum(1 for _ in takewhile(lambda before: before["checkpoint"] == newest, reversed(earlier)))
    if idle >= (MOST_IDLE_STOPS if asked else MOST_IDLE_FAULTS):
        _say(f"{idle} attempts without a new checkpoint (still {newest or 'none'}): not requeued")
        if asked:
            _say("each was told to stop before it had made a step: is --time longer than the lead of --signal=B:USR1@SECONDS?")
        return EXIT_FAULT
    _say("told to stop by a signal: requeued" if asked else f"ended with code {code}: requeued")
    return EXIT_STOPPED


def _newest_checkpoint(run: Path) -> str:
    return max((path.parent.name for path in run.glob("checkpoints/step-*/state.json")), default="")


def _me() -> str:
    return os.environ.get(ENVIRONMENT, "local.0")


def _say(text: str) -> None:
    print(f"attempt {_me()}: {text}", file=sys.stderr)


def main(words: list[str]) -> int:
    """The three commands of the module's docstring."""
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
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
