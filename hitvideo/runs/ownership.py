"""Which attempt may write into a run."""

from __future__ import annotations

import os
import socket
import time
import traceback
from pathlib import Path

from hitvideo.errors import HiTVideoError
from hitvideo.files import replace_json

ENVIRONMENT = "HITVIDEO_ATTEMPT"
"""Names the attempt in the ranks' environment; unset outside Slurm, where nobody disputes a run."""


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
        "refused": isinstance(error, HiTVideoError | OSError),
        "what": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    replace_json(Path(folder) / f"fault-{rank:05d}.json", fault)
