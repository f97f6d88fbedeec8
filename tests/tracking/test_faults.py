"""MLflow after outages, kills and deletions: with `hitvideo track sync` its history equals the run's directory, each row once.

Against a real `mlflow server`. The oracle is the folded directory, and MLflow's own history of every metric.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from hitvideo.commands import tracking as commands
from hitvideo.runs.gallery import save_videos
from hitvideo.runs.history import METRICS, read_rows
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.run import TrackingSection
from hitvideo.tracking import tracker as tracking
from hitvideo.tracking.names import Point, metric_name
from hitvideo.tracking.store import Store
from hitvideo.tracking.tracker import Tracker
from tests.runs.helpers import settings
from tests.tracking.servers import Proxy, free_port, mlflow_server

pytestmark = pytest.mark.slow
EXPERIMENT = "hitvideo"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # a proxy that heals lets go of what hangs
    monkeypatch.setattr(tracking, "_LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(tracking, "_PAUSE_SECONDS", 0.05)
    proxy = Proxy(port)
    yield proxy
    proxy.close()


def nothing() -> None:
    pass


def train(
    tmp_path: Path, uri: str, steps: range, while_open: Callable[[], None] = nothing, end: str = "FINISHED"
) -> RunWriter:
    """A start of the run that logs these steps."""
    run = RunWriter(settings(tmp_path, f"tracking.uri={uri}"), writer=True)
    with Tracker(TrackingSection(uri=uri), run.path, attempt=run.attempt) as tracker:
        run.forget_metrics_after(steps.start - 1)
        for step in steps:
            run.append_metrics({"step": step, "loss": 1 / step + run.attempt, "loss_level_0": 0.5, "tokens_per_s": 9.0})
            tracker.wake()
        while_open()
        tracker.finish(end)
    return run


def sync(run: Path, uri: str) -> None:
    assert commands.sync(Namespace(run=[run], uri=uri, experiment=None)) == 0


def history(uri: str, run: Path) -> list[tuple[str, int, float, int]]:
    """All that MLflow has of the one run of this directory."""
    client = MlflowClient(tracking_uri=uri)
    (found,) = runs_of(client, run)
    metrics = [m for key in found.data.metrics for m in client.get_metric_history(found.info.run_id, key)]
    return sorted((m.key, m.step, m.value, m.timestamp) for m in metrics)


def runs_of(client: MlflowClient, run: Path, view: int = ViewType.ACTIVE_ONLY) -> list:  # type: ignore[type-arg]
    key = (run / "mlflow_key").read_text().split()[1]
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], f"tags.hitvideo_run = '{key}'", view))


def directory(run: Path) -> list[tuple[str, int, float, int]]:
    """What it should have."""
    return sorted(
        (metric_name(key), row["step"], float(value), round(1000 * row["time"]))
        for row in read_rows(run)
        for key, value in row.items()
        if key not in ("step", "time")
    )


def check(run: Path, uri: str, status: str = "FINISHED") -> None:
    sync(run, uri)
    assert history(uri, run) == directory(run)
    (found,) = runs_of(MlflowClient(tracking_uri=uri), run)
    assert found.info.status == status
    assert found.data.params["hierarchy.levels.0.down"] == "[8, 16, 16]"
    sync(run, uri)
    assert history(uri, run) == directory(run), "a second sync changes nothing"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def arrived(uri: str, run: Path) -> bool:
    client = MlflowClient(tracking_uri=uri)
    made = (run / "mlflow_key").is_file() and client.get_experiment_by_name(EXPERIMENT) and runs_of(client, run)
    return bool(made) and history(uri, run) == directory(run)


def test_a_server_that_is_down_at_the_start(tmp_path: Path, proxy: Proxy, port: int, caplog: pytest.LogCaptureFixture) -> None:
    later = free_port()
    uri = f"http://127.0.0.1:{later}"

    def start_it() -> None:
        until(lambda: "cannot be reached" in caplog.text)
        front = Proxy(port, later)
        until(lambda: len(list((tmp_path / "r/mlflow").glob("*.json"))) == 1 and arrived(front.uri, tmp_path / "r"))

    run = train(tmp_path, uri, range(1, 30), start_it)
    assert caplog.text.count("cannot be reached") == 1, "said once, not at each try"
    check(run.path, uri)


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_a_server_that_fails_or_hangs_for_a_while(tmp_path: Path, proxy: Proxy, fault: str) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    with Tracker(TrackingSection(uri=proxy.uri), run.path, attempt=run.attempt) as tracker:
        for step in range(1, 6):
            run.append_metrics({"step": step, "loss": 1 / step})
            tracker.wake()
        until(lambda: arrived(proxy.uri, run.path))
        proxy.fault = fault
        before = time.monotonic()
        for step in range(6, 600):
            run.append_metrics({"step": step, "loss": 1.0})
            tracker.wake()
        assert time.monotonic() - before < 5, "logging waited for the server"
        until(lambda: bool(proxy.seen))
        proxy.heal()
        until(lambda: arrived(proxy.uri, run.path))
        tracker.finish("FINISHED")
    check(run.path, proxy.uri)


def test_a_server_that_is_gone_at_the_end(
    tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "_PATIENCE_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    proxy.fault, proxy.only = "hang", "log-batch"
    before = time.monotonic()
    run = train(tmp_path, proxy.uri, range(1, 5), lambda: until(lambda: bool(proxy.seen)))
    assert time.monotonic() - before < 20
    assert f"hitvideo track sync {run.path}" in caplog.text
    proxy.heal()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    check(run.path, proxy.uri)


def killed_start(root: str, uri: str, steps: int) -> None:
    """The body of a process that is killed."""
    train(Path(root), uri, range(1, steps), lambda: time.sleep(60))


@pytest.mark.parametrize(("fault", "only"), [("hang", "log-batch"), ("lose", "log-batch"), ("lose", "runs/create")])
def test_killed_between_create_and_parameters_in_a_batch_and_in_create(
    tmp_path: Path, proxy: Proxy, fault: str, only: str
) -> None:
    """In the second case the server has taken parameters, in the third made the run; nobody learned of it."""
    proxy.fault, proxy.only = fault, only
    process = multiprocessing.get_context("fork").Process(target=killed_start, args=(str(tmp_path), proxy.uri, 8))
    process.start()
    until(lambda: ("done" if fault == "lose" else f"/api/2.0/mlflow/runs/{only}") in proxy.seen)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    proxy.heal()
    claim = tmp_path / "r/.mlflow_run_id"
    if claim.exists():
        os.utime(claim, (0, 0))  # as after a minute
    (tmp_path / "r/.lock").write_text(f'{{"host": "{os.uname().nodename}", "pid": {process.pid}}}')  # as its owner left it
    check(tmp_path / "r", proxy.uri, "KILLED")


def test_killed_in_a_batch_of_metrics_and_resumed(tmp_path: Path, proxy: Proxy) -> None:
    """The server has the rows, the cursor does not know it; the resumed start repeats some of their steps."""
    process = multiprocessing.get_context("fork").Process(target=killed_start, args=(str(tmp_path), proxy.uri, 8))
    process.start()
    run = tmp_path / "r"
    until(lambda: arrived(proxy.uri, run))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    for cursor in (run / "mlflow").glob("*.json"):
        content = json.loads(cursor.read_text())
        cursor.write_text(json.dumps({**content, "offset": 0}))  # as if it had died before it noted the answer
    train(tmp_path, proxy.uri, range(4, 12))
    check(run, proxy.uri)
    assert [row["attempt"] for row in read_rows(run)] == [1] * 3 + [2] * 8


def test_resumed_after_rollbacks(tmp_path: Path, proxy: Proxy) -> None:
    """MLflow cannot take rows out: sync puts a new run in place of the old one, with the notes that people made."""
    run = train(tmp_path, proxy.uri, range(1, 10), lambda: until(lambda: arrived(proxy.uri, tmp_path / "r")), "KILLED").path
    client = MlflowClient(tracking_uri=proxy.uri)
    (first,) = runs_of(client, run)
    client.set_tag(first.info.run_id, "mlflow.note.content", "looks good")
    client.set_tag(first.info.run_id, "mine", "yes")
    train(tmp_path, proxy.uri, range(5, 8))
    assert len(history(proxy.uri, run)) > len(directory(run))
    check(run, proxy.uri)
    (second,) = runs_of(client, run)
    assert second.info.run_id != first.info.run_id
    assert (second.data.tags["mlflow.note.content"], second.data.tags["mine"]) == ("looks good", "yes")
    assert second.data.tags["attempts"] == "1 KILLED, 2 FINISHED"
    assert [found.info.run_id for found in runs_of(client, run, ViewType.DELETED_ONLY)] == [first.info.run_id]
    train(tmp_path, proxy.uri, range(8, 10))
    assert history(proxy.uri, run) == directory(run), "a later start goes on with the new one"


def test_bad_keys(tmp_path: Path, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    keys = ["loss(%)", "a/../b", "/x", "", "a//b", "é@=+", "validation_", "x" * 400, ".", "nan", "inf"]
    row = dict.fromkeys(keys, 1.0) | {"nan": float("nan"), "inf": float("inf")}
    run.append_metrics({"step": 1, **row})
    sync(run.path, proxy.uri)
    names = {name for name, *_ in history(proxy.uri, run.path)}
    assert names == {metric_name(key) for key in [*keys, "attempt"]}
    assert "refuses" not in caplog.text
    store = Store(proxy.uri, EXPERIMENT)
    run_id = (run.path / "mlflow_run_id").read_text()
    store.send(run_id, [Point("(" if step == 777 else "train/many", 1.0, step, step) for step in range(1, 1000)])
    client = MlflowClient(tracking_uri=proxy.uri)
    there = {metric.step for metric in client.get_metric_history(run_id, "train/many")}
    assert there == set(range(1, 1000)) - {777}, "only the one that MLflow does not take is left out"
    assert caplog.text.count("refuses this metric") == 1


def test_a_deleted_run_and_a_deleted_experiment(tmp_path: Path, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    run, client = train(tmp_path, proxy.uri, range(1, 5), end="KILLED").path, MlflowClient(tracking_uri=proxy.uri)
    client.delete_run(runs_of(client, run)[0].info.run_id)
    check(run, proxy.uri, "KILLED")
    client.delete_run(runs_of(client, run)[0].info.run_id)
    train(tmp_path, proxy.uri, range(5, 8))  # without sync: the next start makes it anew, all rows included
    assert history(proxy.uri, run) == directory(run)
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    train(tmp_path, proxy.uri, range(8, 10))
    assert "experiment 'hitvideo' was deleted; `hitvideo track sync RUN` restores it" in caplog.text
    check(run, proxy.uri)


def test_a_run_deleted_while_it_trains(tmp_path: Path, proxy: Proxy) -> None:
    def tidied_up() -> None:
        until(lambda: arrived(proxy.uri, tmp_path / "r"))
        client = MlflowClient(tracking_uri=proxy.uri)
        client.delete_run(runs_of(client, tmp_path / "r")[0].info.run_id)

    run = train(tmp_path, proxy.uri, range(1, 5), tidied_up)
    assert history(proxy.uri, run.path) == directory(run.path)


def test_an_older_run_whose_rows_have_no_time(tmp_path: Path, proxy: Proxy) -> None:
    run = RunWriter(settings(tmp_path), writer=True).path
    (run / "events.jsonl").unlink()
    (run / "started").write_text("1700000000\n")
    (run / METRICS).write_text("".join(f'{{"step": {step}, "loss": {1 / step}}}\n' for step in range(1, 6)))
    (run / "DONE").write_text("5\n")
    os.utime(run / METRICS, (1700009000, 1700009000))
    expected = [("train/loss", step, 1 / step, 1700000000000 + step) for step in range(1, 6)]
    for _ in range(2):
        sync(run, proxy.uri)
        assert history(proxy.uri, run) == expected
    (found,) = runs_of(MlflowClient(tracking_uri=proxy.uri), run)
    assert (found.info.status, found.info.start_time) == ("FINISHED", 1700000000000)


def test_settings_datasets_and_samples(tmp_path: Path, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = RunWriter(settings(tmp_path, "tracking.group=ablation", "data.manifest=tokens/manifest.json"), writer=True)
    run.append_event("facts", facts={"parameters": 1234, "tokens_per_step": 64, "data": "data-0123456789abcdef"})
    run.video_tokenizer_file.write_text('{"fingerprint": "fedcba9876543210", "weights": "runs/vt/weights"}')
    run.append_metrics({"step": 7, "loss": 1.0})
    frames = np.zeros((8, 32, 48, 3), np.uint8)
    frames[:, :, :, 0] = 200
    save_videos(run.path, "prompts", "Prompts", [("a", frames), ("b", frames)], 8.0)
    for _ in range(2):
        sync(run.path, proxy.uri)
        shutil.rmtree(run.path / "mlflow")  # on another machine nobody knows what was sent
    client = MlflowClient(tracking_uri=proxy.uri)
    (found,) = runs_of(client, run.path)
    run_id = found.info.run_id
    assert found.data.params["facts.parameters"] == "1234"
    assert not [key for key in found.data.params if key.startswith(("tracking.", "run.root"))]
    assert found.data.tags["group"] == "ablation"
    inputs = {each.tags[0].value: each.dataset for each in found.inputs.dataset_inputs}
    assert inputs["training"].digest == "data-0123456789abcdef"
    assert "fedcba9876543210" in inputs["training"].profile
    assert (inputs["video_tokenizer"].name, inputs["video_tokenizer"].digest) == ("vt", "fedcba9876543210")
    videos = [item.path for name in ("prompts-0", "prompts-1") for item in client.list_artifacts(run_id, f"videos/{name}")]
    assert videos == ["videos/prompts-0/step_00000007.mp4", "videos/prompts-1/step_00000007.mp4"]
    pictures = [item.path for item in client.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    assert len(pictures) == 2, "sent twice, there once"
    assert all("samples~prompts-" in path and "+step+7+" in path for path in pictures), pictures
    from PIL import Image

    picture = np.asarray(Image.open(client.download_artifacts(run_id, pictures[0], str(tmp_path))))
    assert picture.shape == (32, 4 * 48, 3)
    assert abs(picture[..., 0].astype(int) - 200).max() < 8
    run.append_change({"key": "train.lr", "old": 0.5, "new": 0.25, "step": 7, "time": time.time()})
    sync(run.path, proxy.uri)
    (found,) = runs_of(client, run.path)
    assert found.data.tags["changed.train.lr"] == "0.5 → 0.25 after step 7"
