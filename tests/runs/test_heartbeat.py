"""A rank that is stuck or dead ends the job soon, and says where every rank stood."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hitvideo.runs.directory import read_metrics
from hitvideo.runs.heartbeat import Heartbeat
from hitvideo.runs.program import EXIT_HANG, guarded
from hitvideo.settings.run import FaultsSection
from pretrain import language_model_task
from pretrain.language_model import main
from pretrain.language_model_task import LanguageModelTask
from tests.pretrain.runs import SMALL, TINY
from tests.samples import ROOT, make_token_shards
from tests.worlds import start_ranks


def test_the_file_says_what_the_rank_does(tmp_path: Path) -> None:
    with Heartbeat(tmp_path, 3, FaultsSection(heartbeat_seconds=0.05)) as heart:
        heart.beat("forward", 12)
        time.sleep(0.3)
        found = json.loads((tmp_path / "rank-00003.json").read_text())
        assert (found["phase"], found["step"], found["pid"]) == ("forward", 12, os.getpid())
        assert abs(time.time() - found["time"]) < 5
        heart.beat("step", 12)
    assert json.loads((tmp_path / "rank-00003.json").read_text())["phase"] == "step"


def fall_asleep(arguments: list[str]) -> int:
    """Rank 1 never comes back from the forward of step 3."""

    class Asleep(LanguageModelTask):
        def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if step == 3 and self.engine.topology.rank == 1:
                time.sleep(1000)
            return super().losses(batch, step)

    language_model_task.LanguageModelTask = Asleep  # type: ignore[misc]
    return main(arguments)


def raise_while_another(arguments: list[str], faults: str, sleeps: bool) -> int:
    """Rank 1 raises in step 3; rank 0 is asleep, or waits for it in a collective."""

    class Raising(LanguageModelTask):
        def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            if step == 3 and self.engine.topology.rank == 1:
                raise RuntimeError("a bug in rank 1")
            if step == 3 and sleeps:
                time.sleep(1000)
            return super().losses(batch, step)

    os.environ["HITVIDEO_FAULTS"] = faults
    language_model_task.LanguageModelTask = Raising  # type: ignore[misc]
    guarded(main, arguments)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("sleeps", [True, False])
def test_a_rank_that_raises_ends_the_others_and_is_named(tmp_path: Path, sleeps: bool) -> None:
    ranks = start_ranks(raise_while_another, 2, words(tmp_path), str(tmp_path / "faults"), sleeps)
    for process in ranks:
        process.join(120)
    now = time.time()
    assert [process.exitcode for process in ranks] == [1, 1]
    faults = [json.loads(path.read_text()) for path in (tmp_path / "faults").glob("fault-*.json")]
    first = min(faults, key=lambda fault: float(fault["time"]))
    assert (first["rank"], first["what"]) == (1, "RuntimeError: a bug in rank 1")
    assert "in losses" in "".join(first["traceback"])
    print(f"all ranks had ended {now - first['time']:.1f} s after the exception")
    assert now - first["time"] < 15


def words(tmp_path: Path) -> list[str]:
    manifest = make_token_shards(tmp_path / "tokens")
    return [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", "run.name=a", *SMALL]


@pytest.mark.slow
def test_a_hang_ends_with_the_stacks_of_every_rank(tmp_path: Path) -> None:
    ranks = start_ranks(fall_asleep, 2, [*words(tmp_path), "faults.hang_seconds=4"])
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [EXIT_HANG] * 2
    stacks = [(tmp_path / f"a/heartbeats/rank-0000{rank}.stacks").read_text() for rank in (0, 1)]
    assert "test_heartbeat.py" in stacks[1]
    assert "in losses" in stacks[1], "the sleeper"
    assert "pretrain/loop.py" in stacks[0], "the one that waits for it"
    beats = [json.loads((tmp_path / f"a/heartbeats/rank-0000{rank}.json").read_text()) for rank in (0, 1)]
    assert [(beat["phase"], beat["step"]) for beat in beats] == [("forward and backward", 3)] * 2


@pytest.mark.slow
def test_a_killed_rank_ends_the_whole_job_within_seconds(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2", "-m", "pretrain", *words(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    job = subprocess.Popen([*command, "train.steps=100000"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "a/metrics.jsonl"
    deadline = time.monotonic() + 180
    try:
        while not (metrics.is_file() and len(read_metrics(metrics)) > 2) and time.monotonic() < deadline:
            assert job.poll() is None
            time.sleep(0.1)
        os.kill(json.loads((tmp_path / "a/heartbeats/rank-00001.json").read_text())["pid"], signal.SIGKILL)
        start = time.monotonic()
        code = job.wait(60)
    finally:
        job.terminate()  # torchrun then ends its ranks
    print(f"the job ended {time.monotonic() - start:.1f} s after its rank")
    assert code not in (0, 75)
    assert time.monotonic() - start < 30
