"""On GPUs, each run in processes of its own under torchrun: `make test-gpu`. A forked rank cannot use CUDA."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hitvideo.checkpoints.reader import Reader
from hitvideo.data.pack import write_moving_shapes
from hitvideo.ops.attention import flash_missing
from hitvideo.runs.directory import RunDirectory, read_metrics
from tests.conftest import ROOT
from tests.pretrain.runs import TOKENIZER, TOKENIZER_WORDS, compare, metrics, words
from tests.samples import make_token_shards, tiny_hierarchy

RANKS = max(1, min(2, torch.cuda.device_count()))

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_token_shards(tmp_path / "tokens")


def start(arguments: list[str], *program: str, **environment: str) -> subprocess.Popen[bytes]:
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--nproc-per-node", str(RANKS), *(program or ("-m", "pretrain")), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, start_new_session=True)


def trained(tmp_path: Path, manifest: Path, name: str, *extra: str) -> list[dict[str, float]]:
    assert start(words(tmp_path, manifest, name, *extra)).wait(300) == 0
    return metrics(tmp_path / name)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_killed_and_resumed_is_bit_equal(tmp_path: Path, manifest: Path, zero_stage: int) -> None:
    """Also the first proof that an optimizer's state that was loaded takes a step: fused Adam refuses a wrong device."""
    more = [f"parallel.zero_stage={zero_stage}", "train.dtype=fp32", "llm.attention=sdpa"]
    more += ["checkpoint.every=2", "train.steps=60"]
    quiet = trained(tmp_path, manifest, "quiet", *more)
    job = start(words(tmp_path, manifest, "killed", *more))
    log, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 240
    while not (log.is_file() and len(read_metrics(log)) > 6):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(60)
    compare(quiet, trained(tmp_path, manifest, "killed", *more), "resumed", rel=0)
    ours, theirs = (RunDirectory(tmp_path / name).model_weights() for name in ("killed", "quiet"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_zero_stages_agree(tmp_path: Path, manifest: Path) -> None:
    runs = [trained(tmp_path, manifest, f"z{stage}", f"parallel.zero_stage={stage}", "train.dtype=bf16") for stage in (1, 2, 3)]
    for rows in runs[1:]:
        for mine, theirs in zip(runs[0], rows, strict=True):
            assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-2)


def test_saving_while_it_trains_changes_nothing(tmp_path: Path, manifest: Path) -> None:
    """A copy to the host for each step's checkpoint, and the next step at once."""
    more = ["parallel.zero_stage=3", "train.dtype=bf16", "train.steps=40"]
    quiet = trained(tmp_path, manifest, "quiet", *more, "checkpoint.every=99")
    compare(quiet, trained(tmp_path, manifest, "saving", *more, "checkpoint.every=1"), "saving", rel=0)


PHASES = [
    "loss.adversarial={weight: 0.2, channels: 8, layers: 2}", "checkpoint.every=1", "checkpoint.keep_last=9", "train.ema=0.9",
    "phases=[{name: whole, steps: 4}, {name: sharp, steps: 4, adversarial: true, train: decoder, size: [48, 64]}]",
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_phases_of_a_video_tokenizer(tmp_path: Path, dtype: str) -> None:
    """Rehearsed first, as all runs on GPUs are. The decoder's phase begins from the averages, and leaves the encoder alone."""
    shards = tmp_path / "shards"
    write_moving_shapes(shards, 40, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=20)
    arguments = [TOKENIZER, f"data.video_shards={shards}", f"run.root={tmp_path}", "run.name=a", *TOKENIZER_WORDS, *PHASES]
    assert start([*arguments, f"train.dtype={dtype}"], "-m", "pretrain.video_tokenizer").wait(300) == 0
    rows = metrics(tmp_path / "a")
    assert len(rows) == 8
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in rows)
    before, after = (Reader(tmp_path / f"a/checkpoints/step-{step:08d}") for step in (5, 8))
    moved = {name.split(".")[1] for name in before.names if not torch.equal(before.full(name), after.full(name))}
    assert "decoder" in moved
    assert not moved & {"encoder", "quantizer"}


@pytest.mark.skipif(flash_missing("cuda", torch.bfloat16) is not None, reason="needs flash-attn")
def test_flash_attention_trains_like_sdpa(tmp_path: Path, manifest: Path) -> None:
    """The band is bf16's."""
    runs = [trained(tmp_path, manifest, kind, "train.dtype=bf16", f"llm.attention={kind}") for kind in ("sdpa", "flash")]
    assert [row["loss"] for row in runs[0]] == pytest.approx([row["loss"] for row in runs[1]], rel=1e-2)


RAISING = """
import sys, time
from pretrain import language_model_task
from pretrain.language_model import main
from hitvideo.runs.program import guarded
class Raising(language_model_task.LanguageModelTask):
    def losses(self, batch, step):
        if step == 3 and self.engine.topology.rank == 0:
            raise RuntimeError("a bug in rank 0")
        return super().losses(batch, step)
language_model_task.LanguageModelTask = Raising
guarded(main)
"""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_rank_that_raises_ends_the_job_and_is_named(tmp_path: Path, manifest: Path) -> None:
    """The other rank waits in a collective of NCCL, whose clean-up would wait for it."""
    (tmp_path / "raising.py").write_text(RAISING)
    faults = tmp_path / "faults"
    program = (str(tmp_path / "raising.py"),)
    job = start(words(tmp_path, manifest, "a"), *program, HITVIDEO_FAULTS=str(faults), PYTHONPATH=str(ROOT))
    assert job.wait(240) != 0
    ended = time.time()
    found = [json.loads(path.read_text()) for path in faults.glob("fault-*.json")]
    first = min(found, key=lambda fault: float(fault["time"]))
    assert (first["rank"], first["what"]) == (0, "RuntimeError: a bug in rank 0")
    assert ended - first["time"] < 30
