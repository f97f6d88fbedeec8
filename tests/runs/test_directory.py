"""One run, one directory, one MLflow run: what may change when it goes on, what a kill leaves, how it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hitvideo import config
from hitvideo.errors import ConfigError
from hitvideo.files import replace_file
from hitvideo.runs.directory import RunDirectory, read_metrics
from hitvideo.runs.program import Stop
from hitvideo.runs.tracking import Tracker, tracking_uri
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.settings.run import TrackingSection
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"


def settings(tmp_path: Path, *words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, TINY, [f"run.root={tmp_path}", "run.name=r", *words])


# ------------------------------------------------------------------------------------------------ the directory


def test_a_new_directory(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path), writer=True)
    assert run.path == tmp_path / "r"
    assert load_settings_as(PretrainRun, run.path / "config.yaml") == settings(tmp_path)
    assert abs(float((run.path / "started").read_text()) - time.time()) < 60
    assert not run.done
    run.mark_done(7)
    assert run.done


def test_readers_write_nothing(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path), writer=False)
    run.append_metrics({"step": 1})
    run.mark_done(1)
    assert list(tmp_path.iterdir()) == []


ONE_LEVEL = "hierarchy.levels=[{down: [8, 8, 8], num_bits: 9}]"
OTHER = ["train.lr=1e-5", "llm.layers=2", "run.seed=1", "train.global_batch=64", "train.dtype=bf16", "text.window=9", ONE_LEVEL]


@pytest.mark.parametrize("word", OTHER)
def test_other_settings_are_refused(tmp_path: Path, word: str) -> None:
    RunDirectory(settings(tmp_path), writer=True)
    before = (tmp_path / "r/config.yaml").read_text()
    with pytest.raises(ConfigError, match=f"r holds a run with {word.partition('=')[0]}: .*choose another run.name"):
        RunDirectory(settings(tmp_path, word), writer=True)
    assert (tmp_path / "r/config.yaml").read_text() == before


FREE = ["train.steps=9000", "parallel.zero_stage=1", "train.micro_batch=4", "checkpoint.every=5", "tracking.enabled=false"]


@pytest.mark.parametrize("word", FREE)
def test_what_does_not_change_a_step_may_change(tmp_path: Path, word: str) -> None:
    started = RunDirectory(settings(tmp_path), writer=True).path / "started"
    before = started.read_text()
    RunDirectory(settings(tmp_path, word), writer=True)
    assert load_settings_as(PretrainRun, tmp_path / "r/config.yaml") == settings(tmp_path, word)
    assert started.read_text() == before


@pytest.mark.parametrize("word", ["data.caption_dropout=0.9", "data.block=8", "data.validation_samples=5"])
def test_data_settings_that_change_the_rows_are_refused(tmp_path: Path, word: str) -> None:
    RunDirectory(settings(tmp_path), writer=True)
    with pytest.raises(ConfigError, match="holds a run with data"):
        RunDirectory(settings(tmp_path, word), writer=True)


def test_the_manifest_may_move(tmp_path: Path) -> None:
    RunDirectory(settings(tmp_path, "data.manifest=here/manifest.json"), writer=True)
    RunDirectory(settings(tmp_path, "data.manifest=there/manifest.json"), writer=True)


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path), writer=True)
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 8)]
    for row in rows:
        run.append_metrics(row)
    path = run.path / "metrics.jsonl"
    assert read_metrics(path) == rows
    run.forget_metrics_after(4)
    assert read_metrics(path) == rows[:4]
    run.append_metrics({"step": 5, "loss": 9.0})
    assert read_metrics(path) == [*rows[:4], {"step": 5, "loss": 9.0}]
    run.forget_metrics_after(0)
    assert read_metrics(path) == []


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_torn_last_line(tmp_path: Path, cut: int) -> None:
    run = RunDirectory(settings(tmp_path), writer=True)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 0.5})
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2  # only the line's end is missing: the row is all there
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3][:whole]
    run.forget_metrics_after(2)  # as resuming does, before it appends
    run.append_metrics({"step": 3, "loss": 0.25})
    assert read_metrics(path)[2:] == [{"step": 3, "loss": 0.25}]


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    done = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(50):
        replace_file(path, str(number % 10) * 100_000)
    done.set()
    thread.join()
    assert {len(text) for text in seen} <= {3, 100_000}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


# ------------------------------------------------------------------------------------------------ stopping


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers back that `Stop` replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_the_file_stops(tmp_path: Path) -> None:
    stop = Stop(tmp_path)
    assert not stop.requested
    (tmp_path / "STOP").touch()
    assert stop.requested


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops(tmp_path: Path, number: signal.Signals) -> None:
    stop = Stop(tmp_path)
    os.kill(os.getpid(), number)
    assert stop.requested


@pytest.mark.usefixtures("handlers")
def test_interrupting_twice_does_not_wait(tmp_path: Path) -> None:
    Stop(tmp_path)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_next_start_forgets_the_stop_file(tmp_path: Path) -> None:
    path = RunDirectory(settings(tmp_path), writer=True).path
    (path / "STOP").touch()
    RunDirectory(settings(tmp_path), writer=True)
    assert not (path / "STOP").exists()


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise ConfigError('x.yaml: mend it')", 2, "error: x.yaml: mend it\n"),
        ("return 75", 75, ""),
        ("return 0", 0, ""),
    ],
)
def test_exit_codes(body: str, code: int, message: str) -> None:
    imports = "from hitvideo.runs.program import guarded\nfrom hitvideo.errors import ConfigError\n"
    source = f"{imports}def main(words):\n  {body}\nguarded(main)"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, message)


# ------------------------------------------------------------------------------------------------ tracking


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
    assert f"MLflow at {uri} is out of reach" in caplog.text


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


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    run = RunDirectory(settings(tmp_path), writer=True)
    run.append_metrics({"step": 1, "loss": 0.1})
    assert [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [{"step": 1, "loss": 0.1}]
