"""A rehearsal takes every phase to come, leaves no trace, and refuses a run whose memory would not last."""

from __future__ import annotations

import os
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.checkpoints.listing import complete
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.pack import write_moving_shapes
from hitvideo.settings.training import TrainSection
from pretrain import language_model, loop, rehearsal, video_tokenizer
from pretrain.rehearsal import rehearse
from pretrain.task import Rehearsal, Task
from tests.pretrain.runs import TOKENIZER, TOKENIZER_WORDS, metrics, numbers, words
from tests.samples import tiny_hierarchy
from tests.worlds import RankError, free_port, run_ranks

EVERY = ["checkpoint.every=1", "checkpoint.keep_last=9"]
MAIN = {"language_model": language_model.main, "video_tokenizer": video_tokenizer.main}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("videos") / "shards"
    write_moving_shapes(out, 24, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=12)
    return out


def watched(program: str, runs: list[list[str]], ports: list[int]) -> list[list[tuple[str, int, bool]]]:
    """Several runs in the same processes; returns what each has rehearsed, at which step, and whether its gradients were
    thrown away. No random number may be drawn.
    """
    found = []
    for arguments, port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(_watched(program, arguments))
    return found


def _watched(program: str, arguments: list[str]) -> list[tuple[str, int, bool]]:
    taken: list[tuple[str, int, bool]] = []
    take = rehearsal._take

    def noted(task: Task, one: Rehearsal) -> None:
        take(task, one)
        taken.append((one.what, one.step, not np.isfinite(task.engine.grad_norm)))

    def still(task: Task, step: int) -> None:
        drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        rehearse(task, step)
        assert drawn[0].equal(torch.get_rng_state())
        assert drawn[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]

    rehearsal._take, loop.rehearse = noted, still
    try:
        assert MAIN[program](arguments) == 0
    finally:
        rehearsal._take, loop.rehearse = take, rehearse
    return taken


def differing(one: Path, other: Path) -> list[str]:
    """What is not equal in the checkpoints of two runs, by name; the numbers themselves would be pages."""
    mine, theirs = everything(one), everything(other)
    assert mine.keys() == theirs.keys()
    return [name for name in mine if mine[name] != theirs[name]]


def everything(run: Path) -> dict[str, Any]:
    """All numbers of a run's checkpoints."""
    found: dict[str, Any] = {}
    for path in complete(run / "checkpoints"):
        reader = Reader(path)
        found[path.name] = {key: reader.state[key] for key in ("step", "samples", "adam_step", "job", "guard")}
        kinds = ("fp32", "exp_avg", "exp_avg_sq", *(["ema"] if reader.averaged else []))
        found |= {f"{path.name}/{name}/{kind}": reader.full(name, kind).tolist() for name in reader.names for kind in kinds}
    return found


@pytest.mark.parametrize(
    ("world", "extra"),
    [
        (1, "parallel.zero_stage=3"),
        pytest.param(2, "parallel.zero_stage=1 train.dtype=bf16", marks=pytest.mark.slow),
        pytest.param(1, "parallel.zero_stage=0", marks=pytest.mark.slow),
        pytest.param(2, "parallel.tensor=2 parallel.zero_stage=2", marks=pytest.mark.slow),
    ],
)
def test_a_language_model_s_leaves_no_trace(tmp_path: Path, manifest: Path, world: int, extra: str) -> None:
    more = ["train.ema=0.9", "train.corrupt=0.2", *EVERY, *extra.split()]
    quiet, loud = (
        [*words(tmp_path, manifest, name, *more), f"train.rehearse={name == 'loud'}"] for name in ("quiet", "loud")
    )
    starts = [[*each, f"train.steps={steps}"] for each in (quiet, loud) for steps in (2, 4)]  # the second resumes
    taken = run_ranks(watched, world, "language_model", starts, [free_port() for _ in starts])[0]
    assert [[each[1:] for each in start] for start in taken] == [[], [], [(0, True)], [(2, True)]]
    assert differing(tmp_path / "quiet", tmp_path / "loud") == []
    assert numbers(metrics(tmp_path / "quiet")) == numbers(metrics(tmp_path / "loud"))


PHASES = (
    "phases=[{name: first, steps: 1, quantized: false}, {name: codes, steps: 1}, {name: sharp, steps: 1, adversarial: true, "
    "size: [48, 64]}, {name: last, steps: 1, adversarial: true, train: decoder}]"
)


@pytest.mark.parametrize(("world", "stage"), [(1, 1), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_a_video_tokenizer_s_takes_every_phase_to_come_and_leaves_no_trace(
    tmp_path: Path, shards: Path, world: int, stage: int
) -> None:
    game = "loss.adversarial={weight: 0.2, channels: 8, layers: 2}"
    more = [PHASES, game, "train.ema=0.9", "train.steps=4", "train.micro_batch=2", f"parallel.zero_stage={stage}"]
    arguments = [TOKENIZER, f"data.video_shards={shards}", f"run.root={tmp_path}", *TOKENIZER_WORDS, *more, *EVERY]
    starts = [[*arguments, f"run.name={name}", f"train.rehearse={name == 'loud'}"] for name in ("quiet", "loud")]
    none, taken = run_ranks(watched, world, "video_tokenizer", starts, [free_port() for _ in starts])[0]
    assert none == []
    phases = [(what.split()[1].strip(","), step) for what, step, _ in taken]
    assert phases == [("first", 0), ("codes", 1), ("sharp", 2), ("last", 3)]
    assert [" 48 × 64" in what for what, *_ in taken] == [False, False, True, False]
    assert everything(tmp_path / "quiet")["step-00000004"]["job"]["lecam"] != [0, 0]
    assert differing(tmp_path / "quiet", tmp_path / "loud") == []
    assert numbers(metrics(tmp_path / "quiet")) == numbers(metrics(tmp_path / "loud"))


def with_little_memory(arguments: list[str], bytes_more: int) -> int:
    """A run whose process gets so much memory more than it has when its rehearsal begins."""

    def limited(task: Task, step: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + bytes_more, resource.RLIM_INFINITY))
        rehearse(task, step)

    loop.rehearse = limited
    return video_tokenizer.main(arguments)


def test_a_later_phase_that_does_not_fit_ends_the_run_before_its_first_step(tmp_path: Path, shards: Path) -> None:
    phases = "phases=[{name: small, steps: 4}, {name: large, steps: 4, size: [1024, 1024]}]"
    arguments = [TOKENIZER, f"data.video_shards={shards}", f"run.root={tmp_path}", "run.name=a", *TOKENIZER_WORDS, phases]
    with pytest.raises(RankError, match=r"ConfigError: phase large, clips of 8 × 1024 × 1024: .*train.micro_batch 4 .* to 2"):
        run_ranks(with_little_memory, 1, [*arguments, "train.rehearse=true"], 1 << 30)
    assert not (tmp_path / "a").exists(), "a refused start leaves nothing"


def test_by_default_it_is_for_gpus() -> None:
    sizes = {"steps": 1, "global_batch": 1, "micro_batch": 1}
    assert [TrainSection(**sizes, rehearse=word).rehearse for word in ("auto", "true", "false")] == ["auto", True, False]
    assert TrainSection(**sizes).rehearse == "auto"
