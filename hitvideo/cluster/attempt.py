"""One attempt of a Slurm job at a run: whose the run directory is, which nodes are unfit, what went wrong, and what next.

    python -m hitvideo.cluster.attempt begin RUN.yaml key=value …     prints the run directory; from now on it is this attempt's
    python -m hitvideo.cluster.attempt unfit FOLDER HOST …            prints the hosts whose pre-flight failed, or never reported
    python -m hitvideo.cluster.attempt end RUN_DIRECTORY CODE ASKED   says what happened; exit code 0 done, 75 requeue, else give up

`slurm/launch.sh` calls these three from the batch script; they are light, so a wrong config fails in seconds.

    runs/NAME/OWNER                      the attempt that may write: JOB.RESTART
    runs/NAME/attempts/JOB.RESTART/      pre-flight reports by host, faults by rank
    runs/NAME/attempts.jsonl             one line for every attempt that ended: code, newest checkpoint
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from hitvideo.config import ConfigError
from hitvideo.settings import programs

ENVIRONMENT = "HITVIDEO_ATTEMPT"
"""Names the attempt in the ranks' environment; unset outside Slurm, where nobody disputes a run."""
EXIT_DONE, EXIT_FAULT, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 75
"""Of every program here; stopped means resumable, and tells a job to requeue."""
MOST_RESTARTS = 20
MOST_IDLE_FAULTS, MOST_IDLE_STOPS = 2, 3
"""Attempts in a row that end without a new checkpoint. A job may be preempted twice before its first step, but a time limit
shorter than the lead of its signal would have it requeued for ever."""
_TOLD_OF_A_TRACEBACK = 12


class TakenOverError(RuntimeError):
    """Another attempt at the run has begun: nothing of this one's may be written any more."""


def refuse_if_taken_over(run: Path) -> None:
    """Raise TakenOverError where the run belongs to another attempt than this process's; outside Slurm nobody disputes it.

    A node that was cut off goes on computing while Slurm starts the job again elsewhere; it must not touch the run.
    """
    mine, owner = os.environ.get(ENVIRONMENT), run / "OWNER"
    found = owner.read_text().strip() if mine and owner.is_file() else mine
    if found != mine:
        raise TakenOverError(f"{run} belongs to attempt {found} now; this process is of attempt {mine} and stops")


def begin(words: Sequence[str]) -> Path:
    """Check the config, take the run over, and return its directory. Raises ConfigError for what the user can mend."""
    settings = programs.load(words[0], words[1:])
    if not isinstance(settings, programs.TokenizeRun):
        check_layout(settings)
    run = settings.run.directory
    (run / "attempts" / _me()).mkdir(parents=True, exist_ok=True)
    temporary = run / f".OWNER.{_me()}"
    temporary.write_text(_me() + "\n")
    os.replace(temporary, run / "OWNER")
    (run / "STOP").unlink(missing_ok=True)
    return run


def check_layout(settings: programs.VideoTokenizerRun | programs.PretrainRun) -> None:
    """Raise ConfigError where the run does not divide over the cluster's devices."""
    cluster, parallel = settings.cluster, settings.parallel
    world, each = cluster.nodes * cluster.devices_per_node, parallel.tensor * parallel.context
    if world % each:
        raise ConfigError(
            f"{cluster.nodes} nodes × {cluster.devices_per_node} devices = {world} ranks are no multiple of "
            f"parallel.tensor {parallel.tensor} × parallel.context {parallel.context}; change one of the four"
        )
    settings.train.accumulation(world // each)


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


def write_fault(error: BaseException) -> None:
    """Leave this rank's traceback where `end` looks for it; without an attempt there is no such place."""
    folder = os.environ.get("HITVIDEO_FAULTS")
    if not folder:
        return
    rank = int(os.environ.get("RANK", "0"))
    fault = {
        "time": time.time(),
        "rank": rank,
        "host": socket.gethostname(),
        "refused": isinstance(error, ConfigError),
        "what": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"fault-{rank:05d}.json").write_text(json.dumps(fault))


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
