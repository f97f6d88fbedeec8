"""An MLflow store: the one door to mlflow. Knows no run directory.

What goes wrong is of three kinds. A store that does not answer raises MLflow's own exceptions: try again later. A run that
was deleted raises GoneError: make it anew. A batch that is refused is halved until the item that MLflow does not take is
alone; it is named in the log, and all others arrive.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from hitvideo.errors import ConfigError
from hitvideo.runs.secrets import masked, without_secrets_of
from hitvideo.tracking.names import Point
from hitvideo.tracking.view import Dataset, Ending
from hitvideo.video.pixels import Frames

log = logging.getLogger(__name__)
SQLITE = "sqlite:///"
RUN_TAG = "hitvideo_run"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # MLflow's limits for one batch
# MLflow's own are 7 retries and 120 s: a server that hangs would take 20 minutes of each call. Its telemetry waits for a host
# outside, which compute nodes do not reach.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}  # fmt: skip
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
_STALE_SECONDS = 60.0  # after which a process that began to make something is taken for dead

Item = TypeVar("Item")


class MadeElsewhereError(Exception):
    """Another process is making the same thing: look again soon."""


class GoneError(Exception):
    """The MLflow run was deleted."""


class Store:
    """A connection. Making one finds or makes the experiment."""

    def __init__(self, uri: str, experiment: str, restore: bool = False) -> None:
        """`restore`: restore a deleted experiment; else raise ConfigError. Raises MLflow's errors and MadeElsewhereError."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)
        _make_sqlite(uri)
        self.uri = uri
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._experiment = self._open_experiment(experiment, restore)
        _remove_stray_folder(uri)

    def _open_experiment(self, name: str, restore: bool) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if not found:
            try:
                return str(self._client.create_experiment(name, artifact_location=_artifacts(self.uri, name)))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another run may just have made it
                if not found:
                    raise
        if found.lifecycle_stage != "active":
            if not restore:
                raise ConfigError(
                    f"its experiment '{name}' was deleted; `hitvideo track sync RUN` restores it, or set tracking.experiment"
                )
            log.warning("the experiment '%s' was deleted: it is restored", name)
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def find(self, key: str) -> list[str]:
        """Ids of the runs that have this key, by age. It is one, except where the answer to `make` was lost."""
        runs = self._client.search_runs([self._experiment], f"tags.{RUN_TAG} = '{key}'", max_results=100)
        return [name for _, name in sorted((run.info.start_time, run.info.run_id) for run in runs)]

    def make(self, key: str, name: str, started: float) -> str:
        """Make a run, whose id is returned. A call whose answer was lost has made it, too: `find` finds it by its key."""
        stamp = round(1000 * started) or None
        run = self._client.create_run(self._experiment, start_time=stamp, tags={RUN_TAG: key}, run_name=name)
        return str(run.info.run_id)

    def adopt(self, run_id: str, key: str) -> bool:
        """Give a run of an older version this key, if it is there and has none."""
        if not self.is_there(run_id):
            return False
        run = self._client.get_run(run_id)
        if run.data.tags.get(RUN_TAG, key) != key or str(run.info.experiment_id) != self._experiment:
            return False
        self._client.set_tag(run_id, RUN_TAG, key)
        return True

    def is_there(self, run_id: str) -> bool:
        """Whether a run exists and is not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def delete(self, run_id: str) -> None:
        """Delete a run; MLflow can restore it."""
        self._client.delete_run(run_id)

    def tags_of_people(self, run_id: str) -> dict[str, str]:
        """Tags that somebody set in MLflow by hand: its description, and all that this project does not set."""
        tags: dict[str, str] = self._client.get_run(run_id).data.tags
        return {key: value for key, value in tags.items() if key == "mlflow.note.content" or not _OURS.match(key)}

    def describe(
        self, run_id: str, parameters: Mapping[str, str], tags: Mapping[str, str], datasets: Sequence[Dataset]
    ) -> None:
        """Set parameters, tags and inputs. A parameter keeps its first value in MLflow; a new one is a tag `changed.KEY`."""
        from mlflow import entities

        run = self._client.get_run(run_id)
        known = run.data.params
        new = [entities.Param(key, value) for key, value in parameters.items() if key not in known]
        moved = {f"changed.{key}": value for key, value in parameters.items() if known.get(key, value) != value}
        marks = [entities.RunTag(key, value) for key, value in {**moved, **tags}.items() if run.data.tags.get(key) != value]
        for chunk in _chunks(new, _MOST_PARAMETERS):
            self._halving(run_id, chunk, lambda some: self._client.log_batch(run_id, params=some), "parameter")
        for chunk in _chunks(marks, _MOST_PARAMETERS):
            self._halving(run_id, chunk, lambda some: self._client.log_batch(run_id, tags=some), "tag")
        inputs = [
            entities.DatasetInput(
                entities.Dataset(each.name, each.digest, "local", f'{{"uri": "{each.source}"}}', profile=each.profile or None),
                [entities.InputTag("mlflow.data.context", each.context)],
            )
            for each in datasets
        ]
        self._halving(run_id, inputs, lambda some: self._client.log_inputs(run_id, some), "dataset")

    def send(self, run_id: str, points: Sequence[Point]) -> None:
        """Log metrics, at most 1000 in one call."""
        from mlflow.entities import Metric

        metrics = [Metric(*point) for point in points]
        self._halving(run_id, metrics, lambda some: self._client.log_batch(run_id, metrics=some), "metric")

    def history(self, run_id: str) -> list[Point]:
        """Everything that the run has of metrics."""
        keys = sorted(self._client.get_run(run_id).data.metrics)
        rows = (row for key in keys for row in self._client.get_metric_history(run_id, key))
        return [Point(row.key, row.value, row.timestamp, row.step) for row in rows]

    def show_picture(self, run_id: str, picture: Frames, key: str, step: int, stamp: int) -> None:
        """Log a picture (H, W, 3) under a fixed key: MLflow's page shows its steps on a slider. Twice is once."""
        parts = ("step", step, "timestamp", stamp, "")
        marks = (f"{key.replace('/', slash)}{sign}" + sign.join(map(str, parts)) for slash, sign in ("~+", "#%"))
        there = [item.path for item in self._client.list_artifacts(run_id, "images")]  # named so by MLflow, or by older ones
        if not any(mark in path for mark in marks for path in there):
            self._client.log_image(run_id, picture, key=key, step=step, timestamp=stamp)

    def keep_file(self, run_id: str, file: Path, name: str) -> None:
        """Upload a file under a name such as `folder/file`; one that is there is replaced."""
        folder, _, last = name.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            link = Path(place) / last
            link.symlink_to(file.absolute())
            self._client.log_artifact(run_id, str(link), folder or None)

    def set_status(self, run_id: str, ending: Ending) -> None:
        """Show whether the run goes on, and when it ended."""
        info = self._client.get_run(run_id).info
        if ending.status == "RUNNING":
            if info.status != "RUNNING":
                self._client.update_run(run_id, status="RUNNING")
        elif (info.status, info.end_time) != ending:
            self._client.set_terminated(run_id, ending.status, ending.stamp)

    def _halving(self, run_id: str, items: Sequence[Item], send: Callable[[list[Item]], object], what: str) -> None:
        """Send items. Raises GoneError, and whatever says that the store does not answer."""
        if not items:
            return
        try:
            send(list(items))
        except Exception as error:
            if getattr(error, "error_code", None) not in _REFUSALS:
                raise
            if not self.is_there(run_id):
                raise GoneError(run_id) from error
            if len(items) == 1:
                log.warning("MLflow refuses this %s, which is left out: %s", what, without_secrets_of(self.uri, error))
                return
            middle = len(items) // 2
            self._halving(run_id, items[:middle], send, what)
            self._halving(run_id, items[middle:], send, what)


_OURS = re.compile(r"mlflow\.|changed\.|(hitvideo_run|program|group|git_commit|attempts)$")


def chunks_of_metrics(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """Parts that MLflow takes in one call."""
    return _chunks(points, _MOST_METRICS)


def reason(uri: str, error: Exception) -> str:
    """Why a store cannot be used, in a line without its secrets."""
    text = without_secrets_of(uri, error)
    if "Invalid Host header" in text:
        text += "; start the server with --allowed-hosts HOST:PORT, as it is called here"
    if "file" in uri.partition(":")[0] or "maintenance mode" in text:
        text += "; MLflow has given up folders as stores: set tracking.uri=sqlite:///FILE (`mlflow migrate-filestore` converts)"
    return f"MLflow at {masked(uri)} cannot be reached ({text})"


def _chunks(items: Sequence[Item], most: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + most] for start in range(0, len(items), most))


def _artifacts(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files: beside a sqlite file, not in the folder that a program happens to run in."""
    if not uri.startswith(SQLITE) or "?" in uri:
        return None
    return (Path(unquote(uri.removeprefix(SQLITE))).absolute().parent / "mlartifacts" / quote(experiment, safe=" ")).as_uri()


@contextmanager
def alone(claim: Path) -> Iterator[None]:
    """Make something while the file `claim` keeps other processes from making it. Raises MadeElsewhereError if it is there."""
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with suppress(FileNotFoundError):
            if time.time() - claim.stat().st_mtime > _STALE_SECONDS:
                claim.unlink()
        raise MadeElsewhereError from None
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def _make_sqlite(uri: str) -> None:
    """Make a sqlite store that is missing, complete under its name: processes that made its tables together would all fail."""
    import mlflow

    path = Path(unquote(uri.removeprefix(SQLITE)))
    if not uri.startswith(SQLITE) or "?" in uri or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        alone(path.with_name(f".{path.name}")),
        tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder,
    ):
        temporary = Path(folder) / path.name
        made = f"{SQLITE}{quote(str(temporary))}"
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
    if uri.startswith(SQLITE) and "%" in uri:
        with suppress(OSError):
            os.removedirs(Path(uri.removeprefix(SQLITE)).parent)
