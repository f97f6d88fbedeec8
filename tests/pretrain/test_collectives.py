"""What a step asks of the other ranks and of the file system, besides ZeRO and tensor parallelism."""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import start
from hitvideo.settings.training import ParallelSection, TrainSection
from pretrain import language_model_task
from pretrain.language_model import main
from pretrain.language_model_task import LanguageModelTask
from tests.conftest import ROOT
from tests.pretrain.runs import words
from tests.worlds import run_ranks

COLLECTIVES = ("all_reduce", "broadcast", "barrier", "all_gather_object", "broadcast_object_list")


def counting(arguments: list[str]) -> tuple[list[int], list[int]]:
    """A run; for each step from the second on, the collectives that our own code calls, and the looks for STOP."""
    calls, looks = [0], [0]
    counted: list[tuple[int, int]] = []

    def of_ours(function: Any) -> Any:
        def wrapped(*given: Any, **options: Any) -> Any:
            caller = Path(sys._getframe(1).f_code.co_filename)
            calls[0] += ROOT in caller.parents and ".venv" not in caller.parts
            return function(*given, **options)

        return wrapped

    exists = Path.exists

    def looked(path: Path) -> bool:
        looks[0] += path.name == "STOP"
        return exists(path)

    class Counting(LanguageModelTask):
        def set_lr(self, step: int) -> float:
            counted.append((calls[0], looks[0]))
            return super().set_lr(step)

    language_model_task.LanguageModelTask = Counting  # type: ignore[misc]
    for name in COLLECTIVES:
        setattr(dist, name, of_ours(getattr(dist, name)))
    Path.exists = looked  # type: ignore[method-assign, assignment]
    assert main(arguments) == 0
    pairs = list(itertools.pairwise(counted[1:]))
    return [after[0] - before[0] for before, after in pairs], [after[1] - before[1] for before, after in pairs]


def test_a_step_is_one_collective_and_one_look_a_node(tmp_path: Path, manifest: Path) -> None:
    """Also with several micro-batches; rows of metrics and saves have collectives of their own."""
    arguments = words(tmp_path, manifest, "a", "train.log_every=99", "checkpoint.every=99", "train.validation_batches=0")
    found = run_ranks(counting, 2, [*arguments, "train.micro_batch=2"])
    assert [calls for calls, _ in found] == [[1] * 8] * 2
    assert [looks for _, looks in found] == [[1] * 8, [0] * 8]


def agreed() -> list[tuple[float, list[bool]]]:
    with start(1) as topology:
        train = TrainSection(steps=1, global_batch=topology.world, micro_batch=1, dtype="fp32")
        engine = Engine(torch.nn.Linear(2, 2), topology, ParallelSection(zero_stage=1), train)
        first, nan = topology.rank == 0, torch.tensor(torch.nan)
        return [
            engine.agree(torch.tensor(1.0 + topology.rank), first, False, True),
            engine.agree(nan if first else torch.tensor(1.0), not first, False),
        ]


def test_what_is_agreed_is_the_mean_and_any_and_nan_spoils_no_flag() -> None:
    for (mean, flags), (lost, others) in run_ranks(agreed, 2):
        assert (mean, flags) == (1.5, [True, False, True])
        assert math.isnan(lost)
        assert others == [True, False]


def test_a_stop_asked_of_one_rank_stops_all(tmp_path: Path, manifest: Path) -> None:
    assert run_ranks(signalled, 2, words(tmp_path, manifest, "a"), 1) == [75, 75]
    assert (tmp_path / "a/checkpoints/step-00000004/state.json").is_file()


def signalled(arguments: list[str], rank: int) -> int:
    """A run of which one rank gets a signal in the fourth step."""
    class Signalled(LanguageModelTask):
        def set_lr(self, step: int) -> float:
            if step == 3 and self.topology.rank == rank:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().set_lr(step)

    language_model_task.LanguageModelTask = Signalled  # type: ignore[misc]
    return main(arguments)
