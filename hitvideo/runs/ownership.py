"""Who may write into a run: one start at a time, and under Slurm the newest attempt.

    runs/NAME/.lock      locked by rank 0 while it runs; holds its host, pid, attempt and start, for the next one's message
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.files import replace_json
from hitvideo.runs.secrets import masked

log = logging.getLogger(__name__)
LOCK = ".lock"
_LOOKS, _LOOK_SECONDS = 20, 0.05
ENVIRONMENT = "HITVIDEO_ATTEMPT"
"""Names the attempt in the ranks' environment; unset outside Slurm, where no other attempt competes for the run."""


class TakenOverError(RuntimeError):
    """A newer attempt owns the run: this one must not write any more."""


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run directory, which is made if needed, while the block runs. Raises ConfigError if another process holds it.

    The lock is the operating system's, so that of a dead process is free at once. Without `flock` in the file system it is
    only said that nothing excludes a second start.
    """
    handle, path = _lock(run), run / LOCK
    try:
        yield
    finally:
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            path.unlink(missing_ok=True)
        os.close(handle)


def _lock(run: Path) -> int:
    path = run / LOCK
    while True:
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            _refuse_unless_taken_over(run)
            path.unlink(missing_ok=True)  # the older attempt keeps a lock that no other process meets any more
            continue
        except OSError as error:
            log.warning("%s cannot be locked (%s): make sure yourself that no other process trains this run", path, error)
            return handle
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(_me()).encode())
            return handle
        os.close(handle)  # its holder has just ended and removed it


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "attempt": os.environ.get(ENVIRONMENT)}


def _refuse_unless_taken_over(run: Path) -> None:
    """Raise ConfigError that names the holder, except if both are attempts of Slurm jobs: OWNER stops the older one."""
    holder: dict[str, Any] = {}
    for _ in range(_LOOKS):  # it may have locked the file, but not yet written
        try:
            holder = json.loads((run / LOCK).read_text())
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
            break
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(_LOOK_SECONDS)
    else:
        raise ConfigError(f"{run}: another process holds this run; stop it first, or choose another run.name")
    mine, theirs = os.environ.get(ENVIRONMENT), holder.get("attempt")
    if mine and theirs and mine != theirs:
        refuse_if_taken_over(run)
        log.warning("%s: attempt %s takes the run over from attempt %s, which still has it open", run, mine, theirs)
        return
    raise ConfigError(
        f"{run}: process {holder.get('pid')} on {holder.get('host')} holds this run since {since}; wait for it, stop it with "
        f"'touch {run}/STOP', or choose another run.name"
    )


def refuse_if_taken_over(run: Path) -> None:
    """Raise TakenOverError if a newer attempt owns the run. Does nothing outside Slurm.

    A node that was cut off keeps computing while Slurm starts the job again elsewhere; it must not touch the run.
    """
    mine, owner = os.environ.get(ENVIRONMENT), run / "OWNER"
    found = owner.read_text().strip() if mine and owner.is_file() else mine
    if found != mine:
        raise TakenOverError(f"{run} now belongs to attempt {found}; this process is of attempt {mine} and stops")


def write_fault(error: BaseException) -> None:
    """Leave this rank's traceback for `hitvideo.cluster.attempt end`; the first counts. Does nothing outside an attempt."""
    folder = os.environ.get("HITVIDEO_FAULTS")
    if not folder:
        return
    rank = int(os.environ.get("RANK", "0"))
    path = Path(folder) / f"fault-{rank:05d}.json"
    if path.exists():
        return
    fault = {
        "time": time.time(),
        "rank": rank,
        "host": socket.gethostname(),
        "refused": isinstance(error, ConfigError),
        "what": masked(f"{type(error).__name__}: {error}"),
        "traceback": [masked(part) for part in traceback.format_exception(error)],
    }
    replace_json(path, fault)
