"""MLflow: settings and metrics arrive, a resumed run continues, an unreachable store costs nothing."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from hitvideo import config
from hitvideo.runs import tracking
from hitvideo.runs.tracking import Tracker, tracking_uri
from hitvideo.settings.run import TrackingSection
from tests.runs.helpers import settings


def track(tmp_path: Path, *rows: dict[str, float], outcome: str | None = None) -> TrackingSection:
    section = TrackingSection(uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="test")
    (tmp_path / "r").mkdir(exist_ok=True)
    with Tracker(section, tmp_path / "r", settings(tmp_path)) as tracker:
        for row in rows:
            tracker.log({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
        if outcome:
            tracker.finish(outcome)
    return section


def test_mlflow_has_settings_and_metrics_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    section = track(tmp_path, {"step": 1, "loss": 3.0, "lr": 1e-3}, {"step": 2, "loss": 2.0}, outcome="KILLED")
    client = MlflowClient(tracking_uri=section.uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "test"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "r"
    assert run.info.status == "KILLED"
    expected = {key: str(value) for key, value in config.flat(settings(tmp_path)).items()}
    assert run.data.params == expected
    assert {"train.lr", "llm.rope_axes", "parallel.zero_stage"} <= run.data.params.keys()
    track(tmp_path, {"step": 3, "loss": 1.5}, outcome="FINISHED")
    (again,) = client.search_runs([experiment.experiment_id])  # still one run
    assert again.info.run_id == run.info.run_id == (tmp_path / "r" / "mlflow_run_id").read_text()
    assert again.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 3.0), (2, 2.0), (3, 1.5)]
    with pytest.raises(KeyError):
        track(tmp_path, {"loss": 1.0}, outcome="FINISHED")  # no step: an error while the run is open
    assert client.get_run(run.info.run_id).info.status == "FAILED"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/none/mlflow.db", "nonsense://x"])
def test_a_store_out_of_reach_costs_nothing(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = time.monotonic()
    with Tracker(TrackingSection(uri=uri), tmp_path, settings(tmp_path)) as tracker:
        for step in range(1000):
            tracker.log({"loss": 1.0}, step)
        assert time.monotonic() - before < 5, "logging waited for the store"
        tracker.finish("FINISHED")
    assert f"MLflow at {uri} cannot be reached" in caplog.text


@pytest.fixture
def first_tries_fail(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The store refuses its first two callers, as a database whose tables are just being made."""
    tries: list[str] = []
    find = MlflowClient.get_experiment_by_name

    def refusing(self: MlflowClient, name: str) -> Any:
        tries.append(name)
        if len(tries) <= 2:
            raise MlflowException("(sqlite3.OperationalError) table experiments already exists")
        return find(self, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", refusing)
    return tries


def test_each_row_is_an_occasion_to_try_again(
    tmp_path: Path, first_tries_fail: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    section = TrackingSection(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "r").mkdir()
    with Tracker(section, tmp_path / "r", settings(tmp_path)) as tracker:
        for step in (1, 2, 3):
            tracker.log({"loss": 1 / step}, step)
            until(lambda step=step: len(first_tries_fail) >= min(step + 1, 3))  # type: ignore[misc]
        tracker.finish("FINISHED")
    run_id = (tmp_path / "r/mlflow_run_id").read_text()
    history = MlflowClient(tracking_uri=section.uri).get_metric_history(run_id, "loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3], "those before it answered are there, too"
    assert caplog.text.count("cannot be reached") == 1


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def task(root: str, number: int) -> float:
    """One of several processes that track into one new store, the last two of them into one run; seconds until it may work."""
    run = Path(root) / ("shared" if number > 1 else f"run-{number}")
    run.mkdir(parents=True, exist_ok=True)
    tracking._PATIENCE_SECONDS = 120.0  # several at once on a busy machine
    before = time.monotonic()
    with Tracker(TrackingSection(), run, settings(Path(root))) as tracker:
        ready = time.monotonic() - before
        tracker.log({f"task_{number}/clips": 1.0}, number)
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
        metrics = sorted(database.execute("select key, run_uuid from metrics"))
    assert sorted(runs.values()) == ["run-0", "run-1", "shared"]
    assert [(key, runs[run_id]) for key, run_id in metrics] == [
        ("task_0/clips", "run-0"), ("task_1/clips", "run-1"), ("task_2/clips", "shared"), ("task_3/clips", "shared")
    ]  # fmt: skip


def test_a_dead_claim_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    claim = tmp_path / "r/.mlflow_run_id"
    claim.touch()
    os.utime(claim, (0, 0))
    track(tmp_path, {"step": 1, "loss": 1.0}, outcome="FINISHED")
    assert (tmp_path / "r/mlflow_run_id").is_file()
    assert not claim.exists()


def test_a_deleted_run_is_made_anew_and_a_deleted_experiment_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section = track(tmp_path, {"step": 1, "loss": 1.0}, outcome="KILLED")
    client, kept = MlflowClient(tracking_uri=section.uri), tmp_path / "r/mlflow_run_id"
    first = kept.read_text()
    client.delete_run(first)
    track(tmp_path, {"step": 2, "loss": 0.5}, outcome="FINISHED")
    assert kept.read_text() != first
    assert [metric.step for metric in client.get_metric_history(kept.read_text(), "loss")] == [2]
    client.delete_experiment(client.get_run(first).info.experiment_id)
    track(tmp_path, {"step": 3, "loss": 0.5}, outcome="FINISHED")
    assert "experiment 'test' was deleted" in caplog.text
    assert kept.is_file()


def test_disabled_or_not_the_writer(tmp_path: Path) -> None:
    for section, enabled in ((TrackingSection(enabled=False), True), (TrackingSection(), False)):
        with Tracker(section, tmp_path / "r", settings(tmp_path), enabled) as tracker:
            tracker.log({"loss": 1.0}, 1)
            tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_which_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingSection(), tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    assert tracking_uri(TrackingSection(), Path("/a b/c?d#e%f")) == "sqlite:////a b/c%3Fd%23e%25f/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(TrackingSection(), tmp_path) == "http://server"
    assert tracking_uri(TrackingSection(uri="file:x"), tmp_path) == "file:x"
