"""Tracking without a server: which store, starts that share a sqlite file, what a run that is not tracked leaves."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hitvideo.runs import history
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.run import TrackingSection
from hitvideo.tracking import tracker as tracking
from hitvideo.tracking.names import metric_name, points
from hitvideo.tracking.store import Store, reason
from hitvideo.tracking.tracker import Tracker, tracking_uri
from hitvideo.tracking.view import View
from tests.runs.helpers import settings

NAMES = {
    "loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/lr", "damaged": "train/damaged",
    "loss_level_0": "level/loss_level_0", "validation_loss": "validation/loss",
    "validation_loss_level_2": "validation/loss_level_2", "tokens_per_s": "speed/tokens_per_s", "mfu": "speed/mfu",
    "data_wait_s": "speed/data_wait_s",
    "gpu_memory_gib": "system/gpu_memory_gib", "host_memory_used": "system/host_memory_used",
    "attempt": "system/attempt", "frames_per_s": "speed/frames_per_s", "clips": "speed/clips",
    "mit ü(%)": "train/mit ü___", "a/../b": "train/a/_/b", "": "train/_", "x" * 400: f"train/{'x' * 244}",
}  # fmt: skip


def test_names_have_sections_and_only_characters_that_mlflow_takes() -> None:
    assert {key: metric_name(key) for key in NAMES} == NAMES
    assert metric_name("clips", "task_3/") == "task_3/speed/clips"


def test_a_row_as_points() -> None:
    row = {"step": 7, "loss": 0.5, "lr": None, "time": 12.3456, "attempt": 2}
    assert points(row, 0.0) == [("train/loss", 0.5, 12346, 7), ("system/attempt", 2.0, 12346, 7)]
    assert points({"step": 7, "loss": 10**400}, 5.0) == [("train/loss", 1.7976931348623157e308, 5007, 7)]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/none/mlflow.db", "nonsense://x"])
def test_a_store_out_of_reach_costs_nothing(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = RunWriter(settings(tmp_path), writer=True)
    with Tracker(TrackingSection(uri=uri), run.path, attempt=run.attempt) as tracker:
        before = time.monotonic()
        for step in range(1, 1000):
            run.append_metrics({"step": step, "loss": 1.0})
            tracker.wake()
        assert time.monotonic() - before < 5, "logging waited for the store"
        deadline = time.monotonic() + 60
        while f"MLflow at {uri} cannot be reached" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        tracker.finish("FINISHED")
        before = time.monotonic()
    assert time.monotonic() - before < 5, "a store that is away is not waited for"
    assert f"hitvideo track sync {run.path}" in caplog.text
    assert [each["status"] for each in history.attempts(run.path)] == ["FINISHED"]


def task(root: str, number: int) -> float:
    """One of several processes that track into one new store, the last two of them into one run; seconds until it may work."""
    run = Path(root) / ("shared" if number > 1 else f"run-{number}")
    run.mkdir(parents=True, exist_ok=True)
    tracking._PATIENCE_SECONDS = 120.0  # several at once on a busy machine
    stream = f"metrics-{number:05d}.jsonl" if number > 1 else history.METRICS
    before = time.monotonic()
    with Tracker(TrackingSection(), run, stream=stream) as tracker:
        ready = time.monotonic() - before
        history.append(run / stream, history.stamped({"step": number, "clips": 1.0}, 1))
        tracker.wake()
        tracker.finish("FINISHED")
    return ready


@pytest.mark.slow
def test_processes_that_start_together_share_a_new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder whose name has what means something else in a URI."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "a?b#c%41d"
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        ready = list(pool.map(task, [str(root)] * 4, range(4)))
    assert max(ready) < 5, "no task waits for the store"
    assert sorted(path.name for path in root.iterdir()) == ["mlflow.db", "run-0", "run-1", "shared"]
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
    with sqlite3.connect(root / "mlflow.db") as database:
        runs = dict(database.execute("select run_uuid, name from runs"))
        metrics = sorted(database.execute("select key, run_uuid, step from metrics where key not like '%attempt'"))
    assert sorted(runs.values()) == ["run-0", "run-1", "shared"]
    assert sorted((key, runs[run_id], step) for key, run_id, step in metrics) == [
        ("speed/clips", "run-0", 0), ("speed/clips", "run-1", 1),
        ("task_2/speed/clips", "shared", 2), ("task_3/speed/clips", "shared", 3),
    ]  # fmt: skip


def test_files_of_an_experiment_lie_beside_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    Store(uri, "my experiment")
    found = MlflowClient(tracking_uri=uri).get_experiment_by_name("my experiment")
    assert found.artifact_location == f"file://{tmp_path}/runs/mlartifacts/my%20experiment"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_copy_of_a_directory_is_another_run(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    key = View(run.path).key
    assert View(run.path).key == key
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/mlflow_key").write_text(run.mlflow_key.read_text())
    assert View(tmp_path / "copy").key != key


def test_nothing_is_made_in_a_run_that_is_not_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "r").mkdir()
    history.append(tmp_path / "r/metrics.jsonl", {"step": 1, "loss": 1.0})
    off = (TrackingSection(enabled=False), True), (TrackingSection(uri=None), True), (TrackingSection(), False)
    for section, enabled in off:
        with Tracker(section, tmp_path / "r", enabled) as tracker:
            tracker.wake()
            tracker.finish("FINISHED")
    assert [path.name for path in tmp_path.rglob("*")] == ["r", "metrics.jsonl"]


def test_a_start_without_a_row_leaves_nothing_in_mlflow(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    with pytest.raises(KeyError, match="step"), Tracker(TrackingSection(), run.path, attempt=run.attempt):
        raise KeyError("step")
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert [each["status"] for each in history.attempts(run.path)] == ["FAILED"]


def test_which_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingSection(), tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    assert tracking_uri(TrackingSection(), Path("/a b/c?d#e%f")) == "sqlite:////a b/c%3Fd%23e%25f/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(TrackingSection(), tmp_path) == "http://server"
    assert tracking_uri(TrackingSection(uri="file:x"), tmp_path) == "file:x"


def test_what_is_said_of_a_store_that_mlflow_gave_up_and_of_a_proxy() -> None:
    assert "sqlite:///FILE" in reason("file:///mlruns", ValueError("maintenance mode"))
    assert "--allowed-hosts" in reason("http://host", ValueError("403 Invalid Host header"))


@pytest.mark.parametrize(("name", "value"), [("SLURM_JOB_NUM_NODES", "2"), ("SLURM_ARRAY_JOB_ID", "7")])
def test_sqlite_on_several_nodes_is_warned_of(
    tmp_path: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for variable in ("MLFLOW_TRACKING_URI", "SLURM_ARRAY_JOB_ID", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(variable, raising=False)
    for section, words in ((TrackingSection(), 0), (TrackingSection(uri="http://127.0.0.1:9"), 0)):
        with Tracker(section, tmp_path):
            pass
        assert caplog.text.count("mlflow server") == words
    monkeypatch.setenv(name, value)
    with Tracker(TrackingSection(), tmp_path):
        pass
    assert caplog.text.count("mlflow server") == 1
