"""Tracking in MLflow, in a thread of its own: a slow or dead server delays no step and ends no run.

One run directory is one MLflow run: its id is in `mlflow_run_id`, so a resumed run continues it, and so do tasks that share
the directory: one of them makes the MLflow run, the others attach once its id is there. Nobody waits for that: rows are
queued, and each row is the occasion to try again. The resolved settings are logged as parameters with dotted keys, the same
columns for every run, so that runs can be compared.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from hitvideo import config
from hitvideo.config import Section
from hitvideo.errors import ConfigError
from hitvideo.files import replace_file
from hitvideo.runs.secrets import masked, masked_settings, without_secrets_of
from hitvideo.settings.run import TrackingSection

log = logging.getLogger(__name__)
_MOST_PARAMETERS = 100  # MLflow's limit for one batch
_PATIENCE_SECONDS = 30.0
_PATIENCE_AFTER_FAULT = 3.0
_STALE_SECONDS = 60.0  # after which a process that began to make an MLflow run is taken for dead
_LOOK_SECONDS = 0.2
_MOST_WAITING = 10_000  # rows kept for a store that does not answer
_SQLITE = "sqlite:///"


def tracking_uri(section: TrackingSection, root: Path) -> str:
    """The configured store, else MLFLOW_TRACKING_URI, else a sqlite file next to the runs."""
    ours = f"{_SQLITE}{re.sub('[%?#]', lambda sign: quote(sign[0]), str(root.resolve() / 'mlflow.db'))}"
    return section.uri or os.environ.get("MLFLOW_TRACKING_URI") or ours


class _MadeElsewhereError(Exception):
    """Another process is making the MLflow run."""


class _Row(NamedTuple):
    """Metrics of a step, and the milliseconds since 1970 at which they were logged."""

    values: dict[str, float]
    step: int
    stamp: int


class _MLflowRun(NamedTuple):
    client: Any
    run_id: str


class Tracker:
    """Use as a context manager on the one rank that logs; `log` only queues."""

    def __init__(self, section: TrackingSection, directory: Path, settings: Section, enabled: bool = True) -> None:
        self._active = enabled and section.enabled
        self._directory = directory
        self._queue: queue.Queue[_Row | None] = queue.Queue()
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
        patience = _PATIENCE_AFTER_FAULT if kind else _PATIENCE_SECONDS  # after a fault other ranks wait for this one to go
        self._thread.join(patience)
        if self._thread.is_alive():
            log.warning("MLflow did not take the last metrics within %.0f s; metrics.jsonl has them all", patience)

    def log(self, values: dict[str, float], step: int) -> None:
        """Queue one row of metrics."""
        if self._active:
            self._queue.put(_Row(values, step, int(time.time() * 1000)))

    def finish(self, outcome: str) -> None:
        """Set the status the MLflow run is closed with: FINISHED, or KILLED (stopped, to be resumed)."""
        self._outcome = outcome

    def _work(self, experiment: str, uri: str, settings: Section) -> None:
        """The thread: open the MLflow run, then log rows as they come; while it cannot be opened, keep them."""
        run, rows, said, last = None, list[_Row](), False, False
        while True:
            try:
                run = run or self._open(experiment, uri, settings)
            except _MadeElsewhereError:
                if last:  # nothing waits for this thread but the end of the program, and that not for long
                    time.sleep(_LOOK_SECONDS)
                    continue
            except Exception as error:  # no fault of the tracking server may end training
                if not said:
                    place, what = masked(uri), without_secrets_of(uri, error)
                    log.warning("MLflow at %s cannot be reached (%s): each new row tries again", place, what)
                said = True
            if run:
                _send(*run, rows, uri)
                rows.clear()
            if last:
                break
            items = self._take()
            last = None in items
            rows = [*rows, *(item for item in items if item)][-_MOST_WAITING:]
        if not run:
            log.warning("MLflow has none of the metrics of %s", self._directory)
            return
        try:
            run.client.set_terminated(run.run_id, status=self._outcome)
        except Exception as error:
            log.warning("MLflow could not close the run: %s", without_secrets_of(uri, error))

    def _take(self) -> list[_Row | None]:
        """All that is queued, at least one item."""
        items = [self._queue.get()]
        with suppress(queue.Empty):
            while True:
                items.append(self._queue.get_nowait())
        return items

    def _open(self, experiment: str, uri: str, settings: Section) -> _MLflowRun:
        """Attach to this directory's MLflow run, or make it. Raises _MadeElsewhereError while another process makes it."""
        import mlflow

        logging.getLogger("alembic").setLevel(logging.WARNING)
        _make_sqlite(uri)
        client = mlflow.MlflowClient(tracking_uri=uri)
        experiment_id = _experiment(client, experiment)
        _remove_stray_folder(uri)
        kept, claim = self._directory / "mlflow_run_id", self._directory / ".mlflow_run_id"
        run_id = kept.read_text().strip() if kept.is_file() else ""
        if run_id and _is_there(client, run_id):
            client.update_run(run_id, status="RUNNING")
            return _MLflowRun(client, run_id)
        with _alone(claim):
            if kept.is_file() and kept.read_text().strip() != run_id:
                raise _MadeElsewhereError
            if run_id:
                log.warning("the MLflow run %s of %s was deleted: a new one is made", run_id, self._directory)
            run_id = client.create_run(experiment_id, run_name=self._directory.name).info.run_id
            replace_file(kept, run_id)
        _log_settings(client, run_id, settings, uri)
        return _MLflowRun(client, run_id)


@contextmanager
def _alone(claim: Path) -> Iterator[None]:
    """Make something while the file `claim` keeps other processes from making it. Raises _MadeElsewhereError if it is there."""
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - claim.stat().st_mtime > _STALE_SECONDS:
                claim.unlink()
        raise _MadeElsewhereError from None
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def _make_sqlite(uri: str) -> None:
    """Make a sqlite store that is missing, complete under its name: processes that made its tables together would all fail."""
    import mlflow

    path = Path(unquote(uri.removeprefix(_SQLITE)))
    if not uri.startswith(_SQLITE) or "?" in uri or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _alone(path.with_name(f".{path.name}")),
        tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder,
    ):
        temporary = Path(folder) / path.name
        made = f"{_SQLITE}{quote(str(temporary))}"
        mlflow.MlflowClient(tracking_uri=made).search_experiments()
        _remove_stray_folder(made)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(temporary, path)


def _remove_stray_folder(uri: str) -> None:
    """MLflow makes the folder of a sqlite file without unquoting its path; this one is empty."""
    if uri.startswith(_SQLITE) and "%" in uri:
        with suppress(OSError):
            os.removedirs(Path(uri.removeprefix(_SQLITE)).parent)


def _experiment(client: Any, name: str) -> str:
    """The id of an experiment, made if needed. Raises ConfigError if it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if not found:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may just have made it
            if not found:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(f"its experiment '{name}' was deleted; restore it, or set another tracking.experiment")
    return str(found.experiment_id)


def _is_there(client: Any, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _log_settings(client: Any, run_id: str, settings: Section, uri: str) -> None:
    from mlflow.entities import Param

    parameters = [Param(key, str(value)[:6000]) for key, value in config.flat(masked_settings(settings)).items()]
    for start in range(0, len(parameters), _MOST_PARAMETERS):
        try:
            client.log_batch(run_id, params=parameters[start : start + _MOST_PARAMETERS])
        except Exception as error:
            log.warning("MLflow refused some settings: %s", without_secrets_of(uri, error))


def _send(client: Any, run_id: str, rows: Sequence[_Row], uri: str) -> None:
    from mlflow.entities import Metric

    for values, step, stamp in rows:
        metrics = [Metric(name, float(value), stamp, step) for name, value in values.items() if value is not None]
        try:
            client.log_batch(run_id, metrics=metrics)
        except Exception as error:
            log.warning("MLflow refused the metrics of step %d: %s", step, without_secrets_of(uri, error))
