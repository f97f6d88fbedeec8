"""Writing a run directory: what may change when a run continues, and what a kill leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hitvideo.errors import ConfigError
from hitvideo.runs.directory import read_metrics
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.runs.helpers import settings


def test_a_new_directory(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    assert run.path == tmp_path / "r"
    assert load_settings_as(PretrainRun, run.path / "config.yaml") == settings(tmp_path)
    assert abs(float((run.path / "started").read_text()) - time.time()) < 60
    assert not run.done
    run.mark_done(7)
    assert run.done


def test_readers_write_nothing(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=False)
    run.append_metrics({"step": 1})
    run.mark_done(1)
    assert list(tmp_path.iterdir()) == []


ONE_LEVEL = "hierarchy.levels=[{down: [8, 8, 8], num_bits: 9}]"
OTHER = ["train.lr=1e-5", "llm.layers=2", "run.seed=1", "train.global_batch=64", "train.dtype=bf16", "text.window=9", ONE_LEVEL]


@pytest.mark.parametrize("word", OTHER)
def test_other_settings_are_refused(tmp_path: Path, word: str) -> None:
    RunWriter(settings(tmp_path), writer=True)
    before = (tmp_path / "r/config.yaml").read_text()
    with pytest.raises(ConfigError, match=f"r holds a run with {word.partition('=')[0]}: .*choose another run.name"):
        RunWriter(settings(tmp_path, word), writer=True)
    assert (tmp_path / "r/config.yaml").read_text() == before


FREE = ["train.steps=9000", "parallel.zero_stage=1", "train.micro_batch=4", "checkpoint.every=5", "tracking.enabled=false"]


@pytest.mark.parametrize("word", FREE)
def test_what_does_not_change_a_step_may_change(tmp_path: Path, word: str) -> None:
    started = RunWriter(settings(tmp_path), writer=True).path / "started"
    before = started.read_text()
    RunWriter(settings(tmp_path, word), writer=True)
    assert load_settings_as(PretrainRun, tmp_path / "r/config.yaml") == settings(tmp_path, word)
    assert started.read_text() == before


@pytest.mark.parametrize("word", ["data.caption_dropout=0.9", "data.block=8", "data.validation_samples=5"])
def test_data_settings_that_change_the_rows_are_refused(tmp_path: Path, word: str) -> None:
    RunWriter(settings(tmp_path), writer=True)
    with pytest.raises(ConfigError, match="holds a run with data"):
        RunWriter(settings(tmp_path, word), writer=True)


def test_the_manifest_may_move(tmp_path: Path) -> None:
    RunWriter(settings(tmp_path, "data.manifest=here/manifest.json"), writer=True)
    RunWriter(settings(tmp_path, "data.manifest=there/manifest.json"), writer=True)


def test_metrics_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
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
    run = RunWriter(settings(tmp_path), writer=True)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 0.5})
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2  # only the line's end is missing: the row is all there
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3][:whole]
    run.forget_metrics_after(2)  # as resuming does, before it appends
    run.append_metrics({"step": 3, "loss": 0.25})
    assert read_metrics(path)[2:] == [{"step": 3, "loss": 0.25}]


def test_the_next_start_forgets_the_stop_file(tmp_path: Path) -> None:
    path = RunWriter(settings(tmp_path), writer=True).path
    (path / "STOP").touch()
    RunWriter(settings(tmp_path), writer=True)
    assert not (path / "STOP").exists()


def test_metrics_are_plain_json(tmp_path: Path) -> None:
    run = RunWriter(settings(tmp_path), writer=True)
    run.append_metrics({"step": 1, "loss": 0.1})
    assert [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [{"step": 1, "loss": 0.1}]
