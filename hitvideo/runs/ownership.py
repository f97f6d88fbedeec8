"""Which attempt may write into a run."""

from __future__ import annotations

import os
import socket
import time
import traceback
from pathlib import Path

from hitvideo.errors import ConfigError
from hitvideo.files import replace_json

ENVIRONMENT = "HITVIDEO_ATTEMPT"
"""Names the attempt in the ranks' environment; unset outside Slurm, where no other attempt competes for the run."""


class TakenOverError(RuntimeError):
    """A newer attempt owns the run: this one must not write any more."""


def refuse_if_taken_over(run: Path) -> None:
    """Raise TakenOverError if a newer attempt owns the run. Does nothing outside Slurm.

    A node that was cut off keeps computing while Slurm starts the job again elsewhere; it must not touch the run.
    """
    mine, owner = os.environ.get(ENVIRONMENT), run / "OWNER"
    found = owner.read_text().strip() if mine and owner.is_file() else mine
    if found != mine:
        raise TakenOverError(f"{run} now belongs to attempt {found}; this process is of attempt {mine} and stops")


def write_fault(error: BaseException) -> None:
    """Leave this rank's traceback for `hitvideo.cluster.attempt end`. Does nothing outside an attempt."""
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
    replace_json(Path(folder) / f"fault-{rank:05d}.json", fault)
