"""A checkpoint resumes on any layout; killed, stopped or undisturbed, a run gives the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import pretrain.__main__ as program
from hitvideo.config import ConfigError
from hitvideo.parallel.checkpoint import Reader, complete
from hitvideo.run import EXIT_STOPPED, read_metrics
from pretrain.loop import Job
from tests.pretrain.test_layouts import SMALL, TINY, run
from tests.samples import ROOT, make_token_shards
from tests.worlds import run_ranks

EVERY = ["checkpoint.every=5", "checkpoint.keep_last=4"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_shards(tmp_path_factory.mktemp("tokens"))


def half_done(finished: Path, name: str) -> Path:
    """The directory as a kill after step 5 would have left it, with a later row that is not covered by a checkpoint."""
    copy = finished.with_name(name)
    shutil.copytree(finished, copy)
    (copy / "DONE").unlink()
    shutil.rmtree(copy / "weights")
    shutil.rmtree(copy / "checkpoints" / "step-00000010")
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace(f"name: {finished.name}", f"name: {name}"))
    rows = read_metrics(copy / "metrics.jsonl")[:7]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return copy


def numbers(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k.startswith(("step", "loss", "grad_norm", "validation"))} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "words"), [(1, ""), (2, ""), (4, "parallel.tensor=2"), (2, "parallel.zero_stage=1")])
def test_same_layout_resumes_bit_equal_and_any_other_to_rounding(
    tmp_path: Path, manifest: Path, world: int, words: str
) -> None:
    straight = run(tmp_path, manifest, "straight", world, *EVERY, *words.split())
    copy = half_done(tmp_path / "straight", "again")
    again = run(tmp_path, manifest, "again", world, *EVERY, *words.split())
    assert numbers(again) == numbers(straight)
    one, other = (load_file(tmp_path / name / "weights/model.safetensors") for name in ("straight", "again"))
    assert all(one[name].equal(other[name]) for name in one)
    for number, (layout, changed) in enumerate([(1, "parallel.tensor=1"), (2, "parallel.tensor=2"), (2, "parallel.tensor=1")]):
        copy = half_done(tmp_path / "straight", f"elsewhere-{number}")
        elsewhere = run(tmp_path, manifest, copy.name, layout, *EVERY, changed)
        for mine, theirs in zip(numbers(straight), numbers(elsewhere), strict=True):
            for key in mine:
                assert theirs[key] == pytest.approx(mine[key], rel=1e-5), (layout, changed, mine["step"], key)


def test_an_interrupted_save_is_never_chosen_and_a_damaged_one_says_so(tmp_path: Path, manifest: Path) -> None:
    run(tmp_path, manifest, "a", 1, *EVERY)
    checkpoints = tmp_path / "a" / "checkpoints"
    shutil.copytree(checkpoints / "step-00000010", checkpoints / "step-00000015.partial")
    assert [path.name for path in complete(checkpoints)] == ["step-00000005", "step-00000010"]
    newest = complete(checkpoints)[-1]
    weights = newest / "rank-00000.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"damaged checkpoint.*remove .*step-00000010"):
        Reader(newest).full("level.weight")


def remembering(words: list[str]) -> list[dict[str, int]]:
    """A run whose job remembers something; returns what it was given on resuming."""
    given: list[dict[str, int]] = []
    make_job = program.make_job

    def make(*arguments: Any) -> Job:
        return replace(make_job(*arguments), state=lambda: {"rounds": 7}, load_state=given.append)

    program.make_job = make
    assert program.main(words) == 0
    return given


def test_what_a_job_remembers_comes_back(tmp_path: Path, manifest: Path) -> None:
    words = [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", "run.name=a", *SMALL, *EVERY]
    assert run_ranks(remembering, 1, [*words, "train.steps=2"]) == [[]]
    assert run_ranks(remembering, 1, [*words, "train.steps=4"]) == [[{"rounds": 7}]]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-m", "pretrain", *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def wait_for_step(path: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    while not (path.is_file() and (rows := read_metrics(path)) and rows[-1]["step"] >= step):
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        time.sleep(0.02)


@pytest.mark.slow
def test_stopped_by_signal_by_file_and_killed_ends_like_undisturbed(tmp_path: Path, manifest: Path) -> None:
    def words(name: str) -> list[str]:
        sizes = [word for word in SMALL if not word.startswith("train.steps")]
        every = ["train.steps=60", "checkpoint.every=10"]
        return [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", f"run.name={name}", *sizes, *every]

    undisturbed = start(words("undisturbed"))
    assert undisturbed.wait() == 0
    directory = tmp_path / "disturbed"
    process = start(words("disturbed"))
    wait_for_step(directory / "metrics.jsonl", 5, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_STOPPED
    process = start(words("disturbed"))
    wait_for_step(directory / "metrics.jsonl", 20, process)
    (directory / "STOP").touch()
    assert process.wait() == EXIT_STOPPED
    process = start(words("disturbed"))
    wait_for_step(directory / "metrics.jsonl", 42, process)
    process.kill()
    process.wait()
    assert not (directory / "DONE").exists()
    assert start(words("disturbed")).wait() == 0
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("undisturbed", "disturbed")]
    last = [{row["step"]: row for row in numbers(r)}[60] for r in rows]
    assert last[0]["loss"] == last[1]["loss"]
    one, other = (load_file(tmp_path / name / "weights/model.safetensors") for name in ("undisturbed", "disturbed"))
    assert all(one[name].equal(other[name]) for name in one)
