"""Damaged files of a run directory: a right result, or an error that names the file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hitvideo.errors import ConfigError
from hitvideo.runs.directory import RunDirectory, read_metrics
from hitvideo.runs.writer import RunWriter
from tests.fuzz import is_refused, mutations
from tests.runs.helpers import settings

COUNTS = [pytest.param(40), pytest.param(1000, marks=pytest.mark.slow)]
READERS: dict[str, Callable[[RunDirectory], object]] = {
    "config.yaml": lambda run: run.settings,
    "metrics.jsonl": lambda run: [row["step"] + 1 for row in run.metrics()],
    "evaluation/captions.json": lambda run: run.figures()["captions"].items(),
    "video_tokenizer.json": lambda run: run.video_tokenizer(),
    "started": lambda run: run.seconds_since_start(time.time()),
    "text_tokenizer.model": lambda run: run.text_tokenizer(),
    "weights/model.safetensors": lambda run: {name: tensor.sum() for name, tensor in run.model_weights().items()},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with all of these files."""
    from hitvideo.sequence.text import TextTokenizer

    writer = RunWriter(settings(tmp_path), writer=True)
    for step in range(1, 9):
        writer.append_metrics({"step": step, "loss": 1 / step})
    writer.evaluation.mkdir()
    (writer.evaluation / "captions.json").write_text(json.dumps({"videos": 3, "scores": {"colour": [0.5, 1.0]}}))
    writer.video_tokenizer_file.write_text(json.dumps({"fingerprint": "0123456789abcdef", "weights": "/somewhere"}))
    TextTokenizer.train(["a red circle", "a blue square"], 300).save(writer.text_tokenizer_file)
    writer.weights.mkdir()
    save_file({"a": torch.arange(6.0), "b": torch.ones(2, 3)}, writer.model_file)
    return RunDirectory(writer.path)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_is_refused_by_name_or_read_right(
    run: RunDirectory, file: str, count: int, record_property: Callable[[str, Any], None]
) -> None:
    path = run.path / file
    assert not is_refused(lambda: READERS[file](run))
    for changed in mutations(path.read_bytes(), count, seed=1):
        path.write_bytes(changed)
        is_refused(lambda: READERS[file](RunDirectory(run.path)))
    record_property("mutations", count)


def test_a_start_meets_damaged_files(run: RunDirectory, tmp_path: Path, record_property: Callable[[str, Any], None]) -> None:
    """Resuming compares, and rewrites only what it has read."""
    files = {file: (run.path / file).read_bytes() for file in ("config.yaml", "metrics.jsonl", "video_tokenizer.json")}
    for file, whole in files.items():
        for changed in mutations(whole, 30, seed=2):
            (run.path / file).write_bytes(changed)
            if is_refused(lambda: RunWriter(settings(tmp_path), writer=True).forget_metrics_after(4)):
                assert (run.path / file).read_bytes() == changed
            (run.path / file).write_bytes(whole)
    record_property("mutations", 30 * len(files))


def test_a_torn_line_costs_its_row_only(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    lines = run.metrics_file.read_bytes().splitlines(keepends=True)
    for damaged in (lines[3][:9], b"\xff", b"[1]", b'{"loss": 1.0}', b'{"step": true}', b'{"step": 4, "loss": "x"}'):
        caplog.clear()
        run.metrics_file.write_bytes(b"".join([*lines[:3], damaged + b"\n", *lines[4:]]))
        assert [row["step"] for row in read_metrics(run.metrics_file)] == [1, 2, 3, 5, 6, 7, 8]
        assert "metrics.jsonl: line 4" in caplog.text


def test_a_cut_evaluation_and_start_are_named(run: RunDirectory) -> None:
    run.started.write_text("yesterday")
    with pytest.raises(ConfigError, match="started: damaged"):
        run.seconds_since_start(0.0)
    (run.evaluation / "captions.json").write_text('{"videos": 3, "sco')
    with pytest.raises(ConfigError, match=r"captions\.json: damaged evaluation"):
        run.figures()
