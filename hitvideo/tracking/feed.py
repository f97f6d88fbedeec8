"""Brings one run's directory into one MLflow store: as it grows (`push`), or exactly as it is (`sync`).

    runs/NAME/mlflow/HASH.json     {"uri", "experiment", "run_id", "offset", "described", "files"}: the cursor of one store

`push` sends what comes after the cursor's byte of the file of metrics, and moves the cursor once MLflow has answered. What is
sent twice is there once, since rows keep their time. Rows that a kill or a return to a checkpoint undid after they were
sent stay in MLflow, which cannot take them out; `sync` compares with MLflow's history, sends what is missing, and where
MLflow has too much puts a new MLflow run in place of the old one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hitvideo.errors import ConfigError
from hitvideo.files import replace_file, replace_json
from hitvideo.runs import history
from hitvideo.runs.secrets import masked
from hitvideo.tracking.names import Point, points
from hitvideo.tracking.pictures import SampleFile, sample_files
from hitvideo.tracking.store import GoneError, MadeElsewhereError, Store, alone, chunks_of_metrics
from hitvideo.tracking.view import View, prefix_of

log = logging.getLogger(__name__)
_LARGEST_FILE = 64 << 20
_MOST_ROWS = 1000  # read in one go
_PATIENCE_SECONDS, _LOOK_SECONDS = 30.0, 0.2


@dataclass
class Cursor:
    """How far a store has a run."""

    uri: str
    experiment: str
    run_id: str = ""
    offset: int = 0
    described: str = ""
    files: dict[str, list[int]] = field(default_factory=dict)


class Synced(NamedTuple):
    """What `sync` did."""

    run_id: str
    sent: int
    """Values of metrics that were missing."""
    undone: int
    """Values that MLflow had and the directory does not count: the MLflow run was made anew."""


class Feed:
    """One directory's way into one store; making one touches nothing."""

    def __init__(self, directory: Path, uri: str, experiment: str, stream: str = history.METRICS) -> None:
        self.view, self.uri, self.experiment = View(directory), uri, experiment
        self.stream = directory / stream
        name = hashlib.sha256("\0".join((uri, experiment, stream)).encode()).hexdigest()[:12]
        self._file = self.view.run.mlflow / f"{name}.json"
        self._cursor = self._read()

    @property
    def begun(self) -> bool:
        """Whether there is anything to show: a row, or an MLflow run of an earlier start."""
        return bool(self._cursor.run_id) or any(True for _ in history.read_lines(self.stream))

    @property
    def behind(self) -> bool:
        """Whether rows are waiting."""
        return any(True for _ in history.read_lines(self.stream, self._cursor.offset))

    def push(self, store: Store) -> None:
        """Send what is new. Raises MadeElsewhereError if another process is at it, and what says that the store is away."""
        with self._alone():
            try:
                self._push(store)
            except GoneError:
                log.warning("the MLflow run %s of %s was deleted: a new one is made", self._cursor.run_id, self.view.run.path)
                self._push(store)

    def _push(self, store: Store) -> None:
        run_id = self._attach(store)
        self._describe(store, run_id)
        started = round(self.view.started, 3)
        while lines := self._next_lines():
            rows = history.fold(line.content for line in lines)
            found = [point for row in rows for point in points(row, started, prefix_of(self.stream))]
            for part in chunks_of_metrics(found):
                store.send(run_id, part)
            self._cursor.offset = lines[-1].end
            self._save()
        self._send_files(store, run_id)
        store.set_status(run_id, self.view.ending())

    def _next_lines(self) -> list[history.Line]:
        lines = history.read_lines(self.stream, self._cursor.offset)
        return [line for line, _ in zip(lines, range(_MOST_ROWS), strict=False)]

    def sync(self, store: Store) -> Synced:
        """Make MLflow's history equal to the directory's, each row once. Raises ConfigError if another process is at it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                with self._alone():
                    return self._sync(store)
            except MadeElsewhereError:
                if time.monotonic() > deadline:
                    path = self.view.run.path
                    raise ConfigError(f"{path}: another process is sending this run to MLflow; try again later") from None
                time.sleep(_LOOK_SECONDS)

    def _sync(self, store: Store) -> Synced:
        run_id = self._attach(store)
        there = store.history(run_id)  # before the files are read: a run that goes on writes its rows before it sends them
        ends = {path: path.stat().st_size for path in self.view.streams()}
        wanted = [point for path in ends for point in self.view.points(path)]
        undone = _without(there, wanted)
        missing = _without(wanted, there)
        if undone:
            run_id, missing = self._made_anew(store, run_id), wanted
        for part in chunks_of_metrics(missing):
            store.send(run_id, part)
        self._cursor.described = ""
        self._describe(store, run_id)
        self._cursor.offset = ends.get(self.stream, 0)
        self._save()
        self._send_files(store, run_id)
        store.set_status(run_id, self.view.ending())
        for other in store.find(self.view.key):
            if other != run_id:
                store.delete(other)
        return Synced(run_id, len(missing), len(undone))

    def _made_anew(self, store: Store, old: str) -> str:
        """A new MLflow run in place of one with undone rows; what people noted there goes with it."""
        kept = store.tags_of_people(old)
        new = store.make(self.view.key, self.view.run.name, self.view.started)
        store.describe(new, {}, kept, [])
        store.delete(old)
        self._point_to(new)
        log.warning("%s: MLflow had rows that were undone since: run %s is now %s", self.view.run.path, old, new)
        return new

    def _attach(self, store: Store) -> str:
        """The id of this directory's MLflow run, which is made if it is missing or deleted. Raises MadeElsewhereError."""
        if self._cursor.run_id and store.is_there(self._cursor.run_id):
            return self._cursor.run_id
        self.view.run.mlflow.mkdir(parents=True, exist_ok=True)
        with alone(self.view.run.path / ".mlflow_run_id"):
            key, kept = self.view.key, self.view.run.mlflow_run_id
            known = kept.read_text().strip() if kept.is_file() else ""
            there = store.find(key)
            if not there and known and store.adopt(known, key):
                there = [known]
            self._point_to(there[0] if there else store.make(key, self.view.run.name, self.view.started))
        return self._cursor.run_id

    def _point_to(self, run_id: str) -> None:
        self._cursor = Cursor(masked(self.uri), self.experiment, run_id)
        self._save()
        replace_file(self.view.run.mlflow_run_id, run_id)

    def _describe(self, store: Store, run_id: str) -> None:
        described = self.view.described()
        if described == self._cursor.described:
            return
        try:
            store.describe(run_id, self.view.parameters(), self.view.tags(), self.view.datasets())
        except ConfigError as error:
            log.warning("MLflow gets no settings: %s", error)
        self._cursor.described = described
        self._save()

    def _send_files(self, store: Store, run_id: str) -> None:
        """Upload the files that are new or have changed: settings, report, samples."""
        if self.stream.name != history.METRICS:
            return
        run = self.view.run
        named = [SampleFile(path) for path in (run.config, run.changes, run.report)]
        for each in (*named, *sample_files(run)):
            if not each.path.is_file() or each.path.stat().st_size > _LARGEST_FILE:
                continue
            name, mark = str(each.path.relative_to(run.path)), [each.path.stat().st_size, each.path.stat().st_mtime_ns]
            if self._cursor.files.get(name) == mark:
                continue
            each.send(store, run_id)
            self._cursor.files[name] = mark
            self._save()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from sending the same while the block runs; the cursor is read anew. Nobody waits for it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MadeElsewhereError from None
            except OSError:  # without locks in the file system, the worst is that something is sent twice
                pass
            self._cursor = self._read()
            yield

    def _read(self) -> Cursor:
        try:
            content: dict[str, Any] = json.loads(self._file.read_text())
            return Cursor(**content)
        except (OSError, ValueError, TypeError):
            return Cursor(masked(self.uri), self.experiment)

    def _save(self) -> None:
        replace_json(self._file, asdict(self._cursor))


def _without(some: list[Point], others: list[Point]) -> list[Point]:
    """Points that are not among the others. Values are compared to 9 digits: not every database keeps more."""
    known = {_identity(point) for point in others}
    return [point for point in some if _identity(point) not in known]


def _identity(point: Point) -> tuple[str, str, int, int]:
    return point.name, f"{point.value:.9g}", point.stamp, point.step
