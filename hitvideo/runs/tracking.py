"""Tracking in MLflow, in a thread of its own: a slow or dead server delays no step and ends no run.

One run directory is one MLflow run: its id is in `mlflow_run_id`, so a resumed run continues it. The resolved settings are
logged as parameters with dotted keys, the same columns for every run, so that runs can be compared.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from hitvideo import config
from hitvideo.config import Section
from hitvideo.files import replace_file
from hitvideo.settings.run import TrackingSection

log = logging.getLogger(__name__)
_MOST_PARAMETERS = 100  # MLflow's limit for one batch
_PATIENCE_SECONDS = 30.0


def tracking_uri(section: TrackingSection, root: Path) -> str:
    """The configured store, else MLFLOW_TRACKING_URI, else a sqlite file next to the runs."""
    return section.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


class Tracker:
    """Use as a context manager on the one rank that logs; `log` only queues."""

    def __init__(self, section: TrackingSection, directory: Path, settings: Section, enabled: bool = True) -> None:
        self._active = enabled and section.enabled
        self._directory = directory
        self._queue: queue.Queue[tuple[dict[str, float], int, int] | None] = queue.Queue()
        self._outcome = "FAILED"
        if self._active:
            uri = tracking_uri(section, directory.parent)
            self._thread = threading.Thread(target=self._work, args=(section.experiment, uri, settings), daemon=True)
            self._thread.start()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if not self._active:
            return
        if kind is not None:
            self._outcome = "FAILED"
        self._queue.put(None)
        self._thread.join(_PATIENCE_SECONDS)
        if self._thread.is_alive():
            log.warning("MLflow did not take the last metrics within %.0f s; metrics.jsonl has them all", _PATIENCE_SECONDS)

    def log(self, values: dict[str, float], step: int) -> None:
        """Queue one row of metrics."""
        if self._active:
            self._queue.put((values, step, int(time.time() * 1000)))

    def finish(self, outcome: str) -> None:
        """Set the status the MLflow run is closed with: FINISHED, or KILLED (stopped, to be resumed)."""
        self._outcome = outcome

    def _work(self, experiment: str, uri: str, settings: Section) -> None:
        try:
            client, run_id = self._open(experiment, uri, settings)
        except Exception as error:  # no fault of the tracking server may end training
            log.warning("MLflow at %s cannot be reached (%s): metrics go to metrics.jsonl only", uri, error)
            self._active = False
            return
        from mlflow.entities import Metric

        while (item := self._queue.get()) is not None:
            values, step, stamp = item
            rows = [Metric(name, float(value), stamp, step) for name, value in values.items() if value is not None]
            try:
                client.log_batch(run_id, metrics=rows)
            except Exception as error:
                log.warning("MLflow refused the metrics of step %d: %s", step, error)
        try:
            client.set_terminated(run_id, status=self._outcome)
        except Exception as error:
            log.warning("MLflow could not close the run: %s", error)

    def _open(self, experiment: str, uri: str, settings: Section) -> tuple[Any, str]:
        import mlflow
        from mlflow.entities import Param

        logging.getLogger("alembic").setLevel(logging.WARNING)
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        kept = self._directory / "mlflow_run_id"
        if kept.is_file():
            run_id = kept.read_text().strip()
            client.update_run(run_id, status="RUNNING")
            return client, run_id
        run_id = client.create_run(experiment_id, run_name=self._directory.name).info.run_id
        replace_file(kept, run_id)
        parameters = [Param(key, str(value)[:6000]) for key, value in config.flat(settings).items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + _MOST_PARAMETERS])
        return client, run_id
