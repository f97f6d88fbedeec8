"""A checkpoint resumes on any layout; killed, stopped or undisturbed, a run gives the same numbers."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hitvideo.checkpoints.export import export_weights
from hitvideo.checkpoints.listing import complete, damage, step_of
from hitvideo.checkpoints.reader import Division, Reader
from hitvideo.commands import cli
from hitvideo.errors import ConfigError
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.rope import rotation
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.program import EXIT_STOPPED
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain import language_model_task
from pretrain.language_model import main
from pretrain.language_model_task import LanguageModelTask
from tests.pretrain.runs import SMALL, TINY, compare, half_done, metrics, numbers, run, words
from tests.samples import ROOT
from tests.worlds import RankError, run_ranks

EVERY = ["checkpoint.every=5", "checkpoint.keep_last=4"]


def weights(run_directory: Path) -> dict[str, torch.Tensor]:
    return load_file(run_directory / "weights/model.safetensors")


TWENTY = ["train.steps=20", "checkpoint.every=10", "checkpoint.keep_last=4"]
ELSEWHERE = [(1, "parallel.tensor=1"), (4, "parallel.tensor=4"), (4, "parallel.tensor=1"), (2, "parallel.tensor=2")]
MORE = [
    (4, "parallel.tensor=2 parallel.sequence=true parallel.zero_stage=1"),
    (2, "parallel.context=2 parallel.zero_stage=2 parallel.tensor=1"),
    (2, "parallel.zero_stage=0 parallel.tensor=1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "words", "elsewhere"),
    [
        (4, "parallel.tensor=2", [*ELSEWHERE, *MORE]),
        (2, "parallel.zero_stage=1", [(1, "parallel.zero_stage=3"), (2, "parallel.tensor=2 parallel.zero_stage=3")]),
        (2, "parallel.zero_stage=0 parallel.tensor=2", [(2, "parallel.tensor=1 parallel.zero_stage=3")]),
        (1, "train.dtype=bf16 parallel.zero_stage=1", []),
        (1, "train.compile=true", [(1, "train.compile=false"), (2, "parallel.tensor=2")]),
    ],
)
def test_same_layout_resumes_bit_equal_and_any_other_to_rounding(
    tmp_path: Path, manifest: Path, world: int, words: str, elsewhere: list[tuple[int, str]]
) -> None:
    straight = run(tmp_path, manifest, "straight", world, *TWENTY, *words.split())
    half_done(tmp_path / "straight", "again", 10)
    again = run(tmp_path, manifest, "again", world, *TWENTY, *words.split())
    assert numbers(again) == numbers(straight)
    one, other = weights(tmp_path / "straight"), weights(tmp_path / "again")
    assert all(one[name].equal(other[name]) for name in one)
    for number, (ranks, changed) in enumerate(elsewhere):
        half_done(tmp_path / "straight", f"elsewhere-{number}", 10)
        found = run(tmp_path, manifest, f"elsewhere-{number}", ranks, *TWENTY, *changed.split())
        assert [row["step"] for row in found] == list(range(1, 21))
        compare(numbers(straight), numbers(found), changed)


def test_an_interrupted_save_is_never_chosen_and_a_damaged_one_is_passed_over(tmp_path: Path, manifest: Path) -> None:
    every = ["train.steps=4", "checkpoint.every=2"]
    straight = run(tmp_path, manifest, "a", 1, *every)
    half_done(tmp_path / "a", "b", 4)
    checkpoints = tmp_path / "b" / "checkpoints"
    shutil.copytree(checkpoints / "step-00000004", checkpoints / "step-00000006.partial-12345678")
    assert [path.name for path in complete(checkpoints)] == ["step-00000002", "step-00000004"]
    newest = complete(checkpoints)[-1]
    assert damage(newest) is None
    file = newest / "rank-00000.safetensors"
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1  # one bit
    file.write_bytes(whole)
    assert damage(newest) == "rank-00000.safetensors is not as it was written (sha256)"
    again = run(tmp_path, manifest, "b", 1, *every)  # from step 2
    assert numbers(again) == numbers(straight)
    assert damage(newest) is None, "written anew"
    assert not list(checkpoints.glob("*.partial*"))
    file.unlink()
    assert damage(newest) == "rank-00000.safetensors is missing"
    state = newest / "state.json"
    state.write_text(state.read_text().replace('"step": 4', '"step": 3'))
    assert "state.json is not as it was written" in str(damage(newest))
    file.write_bytes(whole[:1000])
    state.write_text(state.read_text().replace('"step": 3', '"step": 4'))
    with pytest.raises(ConfigError, match=r"damaged checkpoint.*remove .*step-00000004"):
        Reader(newest).full("level.weight")
    for path in complete(checkpoints):
        (path / "rank-00000.safetensors").unlink()
    (tmp_path / "b/DONE").unlink()
    with pytest.raises(RankError, match=r"all 2 checkpoints are damaged; remove the directory to start over"):
        run(tmp_path, manifest, "b", 1, *every)


def test_the_newest_and_the_milestones_are_kept(tmp_path: Path, manifest: Path) -> None:
    run(tmp_path, manifest, "a", 1, "train.steps=5", "checkpoint.every=1", "checkpoint.keep_last=1", "checkpoint.keep_every=2")
    assert [step_of(path) for path in complete(tmp_path / "a/checkpoints")] == [2, 4, 5]


def on_a_full_disk(arguments: list[str], full: range) -> int:
    """A run that cannot write files of more than 20 kB in some steps; the system refuses them as on a full disk."""

    class OnAFullDisk(LanguageModelTask):
        def set_lr(self, step: int) -> float:
            limit = 20_000 if step in full else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return super().set_lr(step)

    language_model_task.LanguageModelTask = OnAFullDisk  # type: ignore[misc]
    return main(arguments)


def test_a_full_disk_costs_a_checkpoint_and_no_step(tmp_path: Path, manifest: Path) -> None:
    straight = run(tmp_path, manifest, "straight", 1)
    often = ["checkpoint.every=3", "checkpoint.keep_last=9"]
    assert run_ranks(on_a_full_disk, 2, words(tmp_path, manifest, "a", *often), range(5, 8)) == [0, 0]
    compare(straight, metrics(tmp_path / "a"), "full in between")
    assert [step_of(path) for path in complete(tmp_path / "a/checkpoints")] == [3, 9, 10]
    assert [row.get("checkpoint_failed", 0) for row in metrics(tmp_path / "a")] == [0] * 6 + [0, 1, 1, 1]
    with pytest.raises(RankError, match=r"SavesFailed: .*2 checkpoints in a row could not be written"):
        run_ranks(on_a_full_disk, 1, words(tmp_path, manifest, "c", "checkpoint.every=2"), range(1, 99))
    assert metrics(tmp_path / "c")[-1]["step"] in (5, 6), "those of steps 2 and 4"
    with pytest.raises(RankError, match=r"state after step 10 could not be written; free some space and start again"):
        run_ranks(on_a_full_disk, 1, words(tmp_path, manifest, "b", *often, "checkpoint.patience_seconds=0"), range(8, 10))
    assert [step_of(path) for path in complete(tmp_path / "b/checkpoints")] == [3, 6]
    assert not list((tmp_path / "b/checkpoints").glob("*.partial*"))


def test_any_part_of_any_division_is_that_of_the_whole(tmp_path: Path, manifest: Path) -> None:
    """What another layout reads: slices of the flattened shares of its tensor-parallel ranks."""
    run(tmp_path, manifest, "a", 2, "parallel.tensor=2", "train.steps=1")
    reader = Reader(complete(tmp_path / "a/checkpoints")[-1])
    names = {"trunk.blocks.0.attention.q.weight": 0, "trunk.blocks.1.mlp.down.weight": 1, "trunk.norm.weight": -1}
    for name, divided in names.items():
        assert reader.state["parameters"][name][1] == divided
        whole = reader.full(name, "exp_avg")
        for dim, ranks in [(divided, 1), (divided, 2), (divided, 4)] if divided >= 0 else [(-1, 1), (-1, 2)]:
            for rank in range(ranks):
                share = (whole if dim < 0 else whole.chunk(ranks, dim)[rank]).flatten()
                for offset, length in [(0, share.numel()), (5, 7), (share.numel() - 9, 9)]:
                    found = reader.part(name, "exp_avg", Division(dim, ranks), rank, offset, length)
                    assert found.equal(share[offset : offset + length]), (name, dim, ranks, rank, offset)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_exported_weights_are_those_of_the_run_and_load_into_transformers(
    tmp_path: Path, manifest: Path, qk_norm: bool
) -> None:
    run(tmp_path, manifest, "a", 1, "train.steps=2", f"llm.qk_norm={qk_norm}", "llm.kv_heads=2")
    with pytest.raises(SystemExit) as done:
        cli.main(["export", str(tmp_path / "a"), str(tmp_path / "all.safetensors")])
    assert done.value.code == 0
    ours, exported = weights(tmp_path / "a"), load_file(tmp_path / "all.safetensors")
    assert ours.keys() == exported.keys()
    assert all(ours[name].equal(exported[name]) for name in ours)
    folder = tmp_path / "llama"
    folder.mkdir()
    run_a = RunDirectory(tmp_path / "a")
    export_weights(complete(run_a.checkpoints)[-1], run_a.settings, folder / "model.safetensors", "llama")
    theirs, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    settings = load_settings_as(PretrainRun, tmp_path / "a/config.yaml")
    model = LanguageModel(settings.llm, make_layout(settings))
    model.load_state_dict(ours)
    x = torch.randn(2, 9, settings.llm.width, generator=torch.Generator().manual_seed(0))
    turn = rotation(torch.arange(9)[:, None].float(), (settings.llm.head_dim,), settings.llm.rope_theta)
    hidden = theirs(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(model.trunk(x, turn, turn), hidden, atol=1e-5, rtol=1e-5)


def remembering(arguments: list[str]) -> list[dict[str, int]]:
    """A run whose task has a state of its own; returns what it was given on resuming."""
    given: list[dict[str, int]] = []

    class Remembering(LanguageModelTask):
        def state(self) -> dict[str, Any]:
            return {"rounds": 7}

        def load_state(self, state: dict[str, Any]) -> None:
            given.append(state)

    language_model_task.LanguageModelTask = Remembering  # type: ignore[misc]
    assert main(arguments) == 0
    return given


def test_what_a_task_comes_back(tmp_path: Path, manifest: Path) -> None:
    arguments = words(tmp_path, manifest, "a", *EVERY)
    assert run_ranks(remembering, 1, [*arguments, "train.steps=2"]) == [[]]
    assert run_ranks(remembering, 1, [*arguments, "train.steps=4"]) == [[{"rounds": 7}]]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen([sys.executable, "-m", "pretrain", *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def wait_for_step(path: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    while not (path.is_file() and (rows := metrics(path.parent)) and rows[-1]["step"] >= step):
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
    rows = [metrics(tmp_path / name) for name in ("undisturbed", "disturbed")]
    last = [{row["step"]: row for row in numbers(r)}[60] for r in rows]
    assert last[0]["loss"] == last[1]["loss"]
    one, other = (load_file(tmp_path / name / "weights/model.safetensors") for name in ("undisturbed", "disturbed"))
    assert all(one[name].equal(other[name]) for name in one)
