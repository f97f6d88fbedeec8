"""Tracking in MLflow, in a thread of its own: a slow or dead server delays no step and ends no run.

The thread follows the run's directory (hitvideo/tracking/feed.py): it wakes when a row was written, and sends what MLflow does
not have. While the server is away it tries again, ever less often, to the end of the program; what is missing then is sent by
the next start, or by `hitvideo track sync RUN`. It connects after the first row: a refused start leaves nothing in MLflow.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from hitvideo.runs import history
from hitvideo.runs.ownership import TakenOverError, refuse_if_taken_over
from hitvideo.settings.run import AUTO, TrackingSection
from hitvideo.tracking.feed import Feed
from hitvideo.tracking.store import SQLITE, MadeElsewhereError, Store, reason

log = logging.getLogger(__name__)
_PATIENCE_SECONDS = 30.0
_PATIENCE_AFTER_FAULT = 3.0  # after a fault other ranks wait for this one to go; a server that is away is not waited for
_LOOK_SECONDS, _PAUSE_SECONDS = 0.2, 5.0
_LONGEST_PAUSE = 60.0


def tracking_uri(section: TrackingSection, root: Path) -> str:
    """The configured store; by default MLFLOW_TRACKING_URI, else a sqlite file next to the runs."""
    ours = f"{SQLITE}{re.sub('[%?#]', lambda sign: quote(sign[0]), str(root.resolve() / 'mlflow.db'))}"
    named = section.uri if section.uri != AUTO else None
    return named or os.environ.get("MLFLOW_TRACKING_URI") or ours


class Tracker:
    """Use as a context manager on the one rank that logs."""

    def __init__(
        self,
        section: TrackingSection,
        directory: Path,
        enabled: bool = True,
        stream: str = history.METRICS,
        attempt: int | None = None,
    ) -> None:
        """`stream`: the file of metrics to follow. `attempt`: the number of this start, whose end is recorded."""
        self._writer, self._directory, self._attempt = enabled, directory, attempt
        self._active = enabled and section.enabled and section.uri is not None
        self._status = "FAILED"
        self._away = False
        self._written, self._closing = threading.Event(), threading.Event()
        if self._active:
            self._uri = tracking_uri(section, directory.parent)
            _warn_of_sqlite(self._uri)
            self._feed = Feed(directory, self._uri, section.experiment, stream)
            self._thread = threading.Thread(target=self._work, daemon=True, name="tracking")
            self._thread.start()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if not self._writer:
            return
        if kind is not None:
            self._status = "FAILED"
        self._record_end()
        if not self._active:
            return
        self._closing.set()
        self._written.set()
        self._thread.join(_PATIENCE_AFTER_FAULT if kind or self._away else _PATIENCE_SECONDS)
        if self._feed.begun and (self._thread.is_alive() or self._away):
            log.warning("MLflow lacks the end of %s; send it with: hitvideo track sync %s", self._directory, self._directory)

    def wake(self) -> None:
        """Say that a row was written."""
        self._written.set()

    def finish(self, status: str) -> None:
        """Set what the run is closed with: FINISHED, or KILLED (stopped, to be resumed). Without it, it is FAILED."""
        self._status = status

    def _record_end(self) -> None:
        if self._attempt is None or not self._directory.is_dir():
            return
        try:
            refuse_if_taken_over(self._directory)
        except TakenOverError:  # the newer attempt goes on
            return
        end = history.stamped({"status": self._status}, self._attempt)
        history.append(self._directory / history.EVENTS, {"event": "end", **end})

    def _work(self) -> None:
        """The thread: send when a row was written; while the store is away, wait longer and longer."""
        store, failures = None, 0
        while True:
            closing = self._closing.is_set()
            try:
                if self._feed.begun:
                    store = store or Store(self._uri, self._feed.experiment)
                    self._feed.push(store)
                self._away, failures = False, 0
                if closing:
                    return
                self._written.wait()
                self._written.clear()
                self._closing.wait(_PAUSE_SECONDS)  # rows that come together are sent together
            except MadeElsewhereError:
                time.sleep(_LOOK_SECONDS)
            except Exception as error:  # no fault of the tracking server may end training
                if not self._away:
                    log.warning("%s: tried again until it answers", reason(self._uri, error))
                self._away, store, failures = True, None, failures + 1
                if closing:
                    return
                self._closing.wait(min(2.0**failures, _LONGEST_PAUSE))


def _warn_of_sqlite(uri: str) -> None:
    """Several nodes that write one sqlite file on a shared file system can damage it."""
    nodes, array = os.environ.get("SLURM_JOB_NUM_NODES", "1"), "SLURM_ARRAY_JOB_ID" in os.environ
    if uri.startswith(SQLITE) and (array or nodes not in ("", "1")):
        log.warning("MLflow in a sqlite file, in a job of several nodes: start `mlflow server` and set tracking.uri to it")
