"""A run directory hands out what is in it, and says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hitvideo.errors import ConfigError
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun
from tests.runs.helpers import settings


def test_it_names_files_and_touches_none(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    assert run.name == "r"
    assert not run.done
    assert run.metrics() == []
    assert run.figures() == {}
    assert run.seconds_since_start(0) is None
    assert not list(tmp_path.iterdir())


def test_it_hands_out_settings_metrics_and_figures(tmp_path: Path) -> None:
    writer = RunWriter(settings(tmp_path), writer=True)
    writer.append_metrics({"step": 1, "loss": 2.0})
    run = RunDirectory.open(writer.path)
    run.evaluation.mkdir()
    (run.evaluation / "captions.json").write_text(json.dumps({"videos": 3}))
    assert run.settings_as(PretrainRun) == settings(tmp_path)
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 2.0)]
    assert run.figures() == {"captions": {"videos": 3}}


def test_what_is_not_such_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        RunDirectory.open(tmp_path)
    run = RunDirectory.open(RunWriter(settings(tmp_path), writer=True).path)
    with pytest.raises(ConfigError, match=r"python -m pretrain'.*python -m pretrain\.video_tokenizer"):
        run.settings_as(VideoTokenizerRun)
    with pytest.raises(ConfigError, match="neither weights nor a finished checkpoint"):
        run.model_weights()
    run.weights.mkdir()
    run.model_file.write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"model\.safetensors: damaged"):
        run.model_weights()


def test_a_refused_start_leaves_no_new_directory(tmp_path: Path) -> None:
    new = RunWriter(settings(tmp_path), writer=True)
    new.discard_if_new()
    assert not new.path.exists()
    new.heartbeats.mkdir(parents=True)  # another rank was faster
    RunWriter(settings(tmp_path), writer=True).discard_if_new()
    assert not new.path.exists()
    RunWriter(settings(tmp_path), writer=True)
    again = RunWriter(settings(tmp_path), writer=True)
    again.discard_if_new()
    assert again.path.exists(), "it was there before this start"
