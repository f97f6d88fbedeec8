"""MLflow: settings and metrics arrive, a resumed run continues, an unreachable store costs nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hitvideo import config
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


def test_disabled_or_not_the_writer(tmp_path: Path) -> None:
    for section, enabled in ((TrackingSection(enabled=False), True), (TrackingSection(), False)):
        with Tracker(section, tmp_path / "r", settings(tmp_path), enabled) as tracker:
            tracker.log({"loss": 1.0}, 1)
            tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_which_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingSection(), tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking_uri(TrackingSection(), tmp_path) == "http://server"
    assert tracking_uri(TrackingSection(uri="file:x"), tmp_path) == "file:x"
