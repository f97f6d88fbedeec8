"""Steps that would spoil the weights are left out on all ranks, and after several of them the run goes back."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hitvideo.checkpoints.reader import Reader
from hitvideo.runs.changes import read_lines
from hitvideo.settings.run import FaultsSection
from pretrain import language_model_task
from pretrain.guard import Diverged, Guard
from pretrain.language_model import main
from pretrain.language_model_task import LanguageModelTask
from tests.pretrain.runs import metrics, words
from tests.worlds import RankError, run_ranks


def guard(tmp_path: Path, **settings: Any) -> Guard:
    return Guard(FaultsSection(**settings), tmp_path / "skipped.jsonl", writer=True)


def test_a_loss_is_bad_when_not_finite_or_far_above_the_last_ones(tmp_path: Path) -> None:
    judge = guard(tmp_path, spike_window=8, spike_sigmas=3)
    assert judge.bad(math.nan) == "loss is nan"
    assert judge.bad(math.inf) == "loss is inf"
    for loss in (1, 2, 1, 2, 1, 2, 1):
        assert judge.bad(100) is None, "too few losses to know a jump"
        judge.good(loss)
    judge.good(2)  # mean 1.5, σ 0.5: the bound is 3
    assert judge.bad(3.0) is None
    assert judge.bad(3.01) == "loss 3.01 is above 1.5 + 3 × 0.5"
    assert judge.bad(0.0) is None, "a loss may fall"
    again = guard(tmp_path, spike_window=8, spike_sigmas=3)
    again.load_state(json.loads(json.dumps(judge.state())))
    assert again.bad(3.01) == judge.bad(3.01), "what was seen is part of the checkpoint"


def test_without_sigmas_only_what_is_not_finite_is_bad(tmp_path: Path) -> None:
    judge = guard(tmp_path, spike_window=8, spike_sigmas=None)
    for loss in (1, 2, 1, 2, 1, 2, 1, 2):
        judge.good(loss)
    assert judge.bad(1e9) is None
    assert judge.bad(math.nan) == "loss is nan"


def test_it_goes_back_after_several_in_a_row_and_gives_up_after_several_times(tmp_path: Path) -> None:
    judge = guard(tmp_path, patience=2, most_rollbacks=1)
    judge.skipped(4, "x", ["a"])
    judge.good(1.0)
    judge.skipped(6, "x", ["b"])
    assert not judge.hopeless
    judge.skipped(7, "x", ["c"])
    assert judge.hopeless
    judge.roll_back(8, to=4)
    assert not judge.hopeless
    with pytest.raises(Diverged, match=r"up to step 9.*most_rollbacks 1 is used up"):
        judge.roll_back(9, to=4)


def judged(judge: Guard, losses: list[float]) -> list[bool]:
    """Which of these losses would update the weights."""
    found = []
    for step, loss in enumerate(losses):
        reason = judge.bad(loss)
        found.append(reason is None)
        judge.skipped(step, reason, [], loss) if reason else judge.good(loss)
    return found


USUAL = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.1, 0.9]


def test_jumps_with_weights_known_to_be_good_become_usual(tmp_path: Path) -> None:
    judge = guard(tmp_path, patience=3, spike_window=8)
    judged(judge, USUAL)
    assert judged(judge, [5.0] * 3) == [False] * 3
    assert judge.hopeless, "first the weights are doubted"
    judge.roll_back(11, to=8)
    assert judged(judge, [5.0, 5.1, 4.9, 5.0, 5.1]) == [False, False, False, True, True], "then the data are other ones"
    assert not judge.hopeless


def test_jumps_among_good_steps_or_of_no_number_never_become_usual(tmp_path: Path) -> None:
    judge = guard(tmp_path, patience=3, spike_window=8)
    judged(judge, USUAL)
    judge.roll_back(11, to=8)
    assert judged(judge, [5.0, 5.0, 1.0, 5.0, 5.0, 5.0]) == [False, False, True, False, False, False]
    assert judge.hopeless, "the good step changed the weights"
    judge.roll_back(17, to=8)
    judged(judge, [math.nan, 5.0, 5.0])
    assert judge.hopeless


def test_after_a_change_of_data_the_first_jumps_become_usual(tmp_path: Path) -> None:
    judge = guard(tmp_path, patience=3, spike_window=8)
    state = {"losses": USUAL, "in_a_row": 2}
    judge.load_state(state, other_data=True)
    assert judged(judge, [5.0] * 4) == [False, False, False, True]
    judge.load_state(state)
    judged(judge, [5.0])
    assert judge.hopeless, "with the same data, it judges like one never stopped"


def poisoned(arguments: list[str], rank: int, steps: list[int], factor: float) -> int:
    """A run whose losses on one rank are multiplied in some steps, counted as they are run."""
    calls = itertools.count()

    class Poisoned(LanguageModelTask):
        def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
            here = next(calls) // self.engine.accumulation in steps and self.engine.topology.rank == rank
            return {name: value * (factor if here else 1.0) for name, value in super().losses(batch, step).items()}

    language_model_task.LanguageModelTask = Poisoned  # type: ignore[misc]
    return main(arguments)


def every_step(tmp_path: Path, manifest: Path, *extra: str) -> list[str]:
    return words(tmp_path, manifest, "a", "checkpoint.every=1", "checkpoint.keep_last=99", *extra)


def weights(tmp_path: Path, step: int) -> dict[str, torch.Tensor]:
    reader = Reader(tmp_path / f"a/checkpoints/step-{step:08d}")
    return {f"{name}/{kind}": reader.full(name, kind) for name in reader.names for kind in ("fp32", "exp_avg")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(one[name].equal(other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "factor", "reason"),
    [
        ("parallel.zero_stage=0", 100.0, "is above"),
        ("parallel.zero_stage=1", math.nan, "loss is nan"),
        ("train.dtype=bf16 parallel.zero_stage=1", 100.0, "is above"),
        ("parallel.tensor=2", math.nan, "loss is nan"),
    ],
)
def test_a_bad_loss_on_one_rank_is_left_out_on_all(
    tmp_path: Path, manifest: Path, extra: str, factor: float, reason: str
) -> None:
    given = every_step(tmp_path, manifest, *extra.split(), "faults.spike_window=8", "train.steps=11")
    assert run_ranks(poisoned, 2, given, 1, [9], factor) == [0, 0]
    assert same(weights(tmp_path, 9), weights(tmp_path, 10))
    assert not same(weights(tmp_path, 10), weights(tmp_path, 11))
    rows = metrics(tmp_path / "a")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert rows[-1]["skipped"] == 1
    (left_out,) = [json.loads(line) for line in (tmp_path / "a/skipped.jsonl").read_text().splitlines()]
    assert left_out["step"] == 9
    assert reason in left_out["reason"]
    assert len(set(left_out["keys"])) == 8
    assert all(key[:2] in ("0-", "1-") for key in left_out["keys"]), "keys of samples, as the token shards have them"


@pytest.mark.slow
def test_a_run_goes_back_and_on_with_other_data_and_ends(tmp_path: Path, manifest: Path) -> None:
    given = every_step(tmp_path, manifest, "checkpoint.every=4", "faults.patience=2")
    assert run_ranks(poisoned, 2, given, 0, [5, 6], math.nan) == [0, 0]
    assert [row["step"] for row in metrics(tmp_path / "a")] == list(range(1, 11))
    assert Reader(tmp_path / "a/checkpoints/step-00000010").state["samples"] == 8 * (10 + 7 - 4)
    (returned,) = read_lines(tmp_path / "a/rollbacks.jsonl")
    assert (returned["step"], returned["to"], returned["samples"]) == (7, 4, 8 * 7)
    left_out = [json.loads(line)["keys"] for line in (tmp_path / "a/skipped.jsonl").read_text().splitlines()]
    assert len(left_out) == 2


def test_a_run_that_always_fails_ends(tmp_path: Path, manifest: Path) -> None:
    given = every_step(tmp_path, manifest, "faults.patience=2", "faults.most_rollbacks=1")
    for bad in (range(2, 99), range(99)):
        with pytest.raises(RankError, match=r"Diverged.*faults.most_rollbacks 1 is used up"):
            run_ranks(poisoned, 1, given, 0, list(bad), math.nan)
    assert len(read_lines(tmp_path / "a/rollbacks.jsonl")) == 1, "a restart does not count anew"


def test_a_lasting_jump_ends_nothing(tmp_path: Path, manifest: Path) -> None:
    given = every_step(tmp_path, manifest, "faults.patience=2", "faults.spike_window=8", "train.steps=14")
    assert run_ranks(poisoned, 1, given, 0, list(range(9, 99)), 30.0) == [0]
    assert metrics(tmp_path / "a")[-1]["step"] == 14
    assert len(read_lines(tmp_path / "a/rollbacks.jsonl")) == 1
    assert len((tmp_path / "a/skipped.jsonl").read_text().splitlines()) == 2 * 2
