"""Killed at random moments, also while saving, a run always goes on and ends as the one never killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hitvideo.checkpoints.listing import complete, damage
from pretrain.language_model import main
from tests.pretrain.runs import SMALL, TINY, metrics, numbers
from tests.samples import make_token_shards
from tests.worlds import start_ranks

KILLS = 20
SIZES = [word for word in SMALL if not word.startswith("train.steps")]


def alive(ranks: list[Any]) -> list[Any]:
    return [process for process in ranks if process.is_alive()]


def wait_for(ranks: list[Any], condition: Callable[[], bool]) -> None:
    while alive(ranks) and not condition():
        time.sleep(0.001)


def wait_for_a_step(ranks: list[Any], metrics_file: Path) -> None:
    """Until a row is appended (resuming rewrites the file, which counts as well: then the first step is close)."""
    before = metrics_file.stat().st_mtime_ns if metrics_file.exists() else 0
    wait_for(ranks, lambda: metrics_file.exists() and metrics_file.stat().st_mtime_ns > before)


def kill(ranks: list[Any], dice: random.Random, both: bool = False) -> None:
    """One rank or both. A survivor that has met the other must end by itself, soon."""
    for process in ranks if both else dice.choice([ranks[:1], ranks[1:], ranks]):
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    start = time.monotonic()
    for process in ranks:
        process.join(20)
    assert not alive(ranks), "a rank outlived the other"
    assert time.monotonic() - start < 15


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path / "tokens")

    def begin(name: str) -> list[Any]:
        words = [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", f"run.name={name}", *SIZES, "train.steps=60"]
        return start_ranks(main, 2, [*words, "checkpoint.every=2", "train.validate_every=100"])

    undisturbed = begin("undisturbed")
    for process in undisturbed:
        process.join(120)
    assert [process.exitcode for process in undisturbed] == [0, 0]
    directory, dice = tmp_path / "killed", random.Random(4)
    metrics_file, checkpoints = directory / "metrics.jsonl", directory / "checkpoints"
    saving = 0
    for number in range(KILLS):
        assert not (directory / "DONE").exists(), f"finished after {number} kills; give it more steps"
        ranks = begin("killed")
        if number % 4 == 0:  # while starting
            time.sleep(dice.uniform(0, 2))
        elif number % 2:  # while a checkpoint is being written
            wait_for_a_step(ranks, metrics_file)
            wait_for(ranks, lambda: any(checkpoints.glob("*.partial-*")))
            time.sleep(dice.uniform(0, 0.02))
        else:  # at any moment of training
            wait_for_a_step(ranks, metrics_file)
            time.sleep(dice.uniform(0, 0.5))
        kill(ranks, dice, both=number % 4 == 0)
        saving += any(checkpoints.glob("*.partial-*"))
        assert all(damage(path) is None for path in complete(checkpoints))
    assert saving >= 4, f"only {saving} of the kills fell into a save"
    ranks = begin("killed")
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    rows = [numbers(metrics(tmp_path / name)) for name in ("undisturbed", "killed")]
    assert rows[0] == rows[1]
    one, other = (load_file(tmp_path / name / "weights/model.safetensors") for name in ("undisturbed", "killed"))
    assert all(one[name].equal(other[name]) for name in one)
