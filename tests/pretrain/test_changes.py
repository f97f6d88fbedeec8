"""A run that goes on differently: another rate, batch or blend, another run's weights; the order of data stays exact."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hitvideo.checkpoints.listing import complete, read_state, state_digest
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.blend import Blend, open_tokens
from hitvideo.data.rows import TokenSource
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.runs.changes import read_lines
from hitvideo.runs.directory import RunDirectory
from hitvideo.settings.programs import PretrainRun
from pretrain import language_model_task
from pretrain.language_model import main
from tests.pretrain.runs import metrics, numbers, run, words
from tests.samples import make_token_shards
from tests.worlds import RankError, free_port, run_ranks

FEW = ["train.steps=4", "checkpoint.every=2", "train.validation_batches=0"]
Drawn = list[tuple[int, int]]
"""Draws and the samples that they gave, as they were trained on."""


def watched(arguments: list[str]) -> Drawn:
    """A run whose samples are noted."""
    drawn: Drawn = []

    class Watched(TokenSource):
        def rows(self, indices: Any, draws: Any) -> Any:
            drawn.extend(zip(draws.tolist(), indices.tolist(), strict=True))
            return super().rows(indices, draws)

    language_model_task.TokenSource = Watched  # type: ignore[misc]
    assert main([*arguments, "data.workers=0"]) == 0
    return drawn


def ordered(directory: Path, draws: range) -> Drawn:
    """What the order of a run's data gives at these draws."""
    settings = RunDirectory(directory).settings_as(PretrainRun)
    dataset: TokenDataset | Blend = open_tokens(settings.data, settings.clip)
    training = range(len(dataset) - settings.data.validation_samples)
    order = dataset.order(training, settings.run.seed, settings.data.read_together)
    return list(zip(draws, order(list(draws)).tolist(), strict=True))


def changes(directory: Path) -> list[tuple[object, ...]]:
    return [(row["key"], row["old"], row["new"], row["step"]) for row in read_lines(directory / "changes.jsonl")]


def test_another_rate(tmp_path: Path, manifest: Path) -> None:
    same = [*FEW, "train.steps=6", "train.schedule=constant", "checkpoint.keep_last=4"]
    before = run(tmp_path, manifest, "a", 1, *same, "train.lr=0.001")
    for path in complete(tmp_path / "a/checkpoints"):
        shutil.rmtree(path) if path.name > "step-00000002" else None
    changed = [*same, "train.lr=0.0005"]
    with pytest.raises(RankError, match=r"--allow-change train\.lr"):
        run(tmp_path, manifest, "a", 1, *changed)
    after = run(tmp_path, manifest, "a", 1, *changed, "--allow-change", "train.lr")
    assert [row["lr"] for row in after] == [0.0005, 0.001, *[0.0005] * 4]
    assert numbers(after)[:3] == numbers(before)[:3], "step 3 has the weights and samples it would have had"
    assert changes(tmp_path / "a") == [("train.lr", 0.001, 0.0005, 2)]
    assert run(tmp_path, manifest, "a", 1, *changed) == after, "it is done"


def test_another_batch_with_every_sample_once(tmp_path: Path, manifest: Path) -> None:
    """72 training samples: the epoch ends within a step."""
    given = words(tmp_path, manifest, "a", *FEW)
    (first,) = run_ranks(watched, 1, [*given, "train.global_batch=6"])
    more = ["train.steps=9", "--allow-change", "train.global_batch"]
    (then,) = run_ranks(watched, 1, [*given, "train.global_batch=16", *more])
    assert first == ordered(tmp_path / "a", range(24))
    assert then == ordered(tmp_path / "a", range(24, 24 + 5 * 16))
    assert sorted(index for _, index in [*first, *then][:72]) == list(range(72))
    assert ("train.global_batch", 6, 16, 4) in changes(tmp_path / "a")
    assert read_state(complete(tmp_path / "a/checkpoints")[-1])["samples"] == 24 + 5 * 16


def test_a_checkpoint_without_a_count_of_samples_goes_on_as_it_did(tmp_path: Path, manifest: Path) -> None:
    given = words(tmp_path, manifest, "a", *FEW)
    run_ranks(watched, 1, given)
    file = complete(tmp_path / "a/checkpoints")[-1] / "state.json"
    state = json.loads(file.read_text())
    del state["samples"]
    state["guard"]["passed_over"] = 3  # of an older version: steps of data passed over
    file.write_text(json.dumps({**state, "sha256": state_digest(state)}))
    (then,) = run_ranks(watched, 1, [*given, "train.steps=5"])
    assert then == ordered(tmp_path / "a", range((4 + 3) * 8, (4 + 3 + 1) * 8))


def test_another_blend_from_its_beginning(tmp_path: Path, manifest: Path) -> None:
    other = make_token_shards(tmp_path / "other", shards=1)
    few = [word for word in words(tmp_path, manifest, "a", *FEW) if not word.startswith("data.manifest")]

    def blend(weight: float) -> str:
        return f"data.blend=[{{manifest: {manifest}, weight: 1}}, {{manifest: {other}, weight: {weight}}}]"

    run_ranks(watched, 1, [*few, blend(1)])
    with pytest.raises(RankError, match=r"ConfigError.*--allow-change data\.blend"):
        run_ranks(watched, 1, [*few, blend(3), "train.steps=6"])
    (then,) = run_ranks(watched, 1, [*few, blend(3), "train.steps=6", "--allow-change", "data.blend"])
    assert then == ordered(tmp_path / "a", range(16))
    assert [row[0] for row in changes(tmp_path / "a")] == ["train.steps", "data.blend"]
    (on,) = run_ranks(watched, 1, [*few, blend(3), "train.steps=7"])
    assert on == ordered(tmp_path / "a", range(16, 24)), "now these are the run's data"
    assert [row["step"] for row in metrics(tmp_path / "a")] == list(range(1, 8))


def weights(directory: Path, kind: str = "fp32") -> dict[str, torch.Tensor]:
    reader = Reader(complete(directory / "checkpoints")[-1])
    return {name: reader.full(name, kind) for name in reader.names}


@pytest.mark.parametrize("what", ["weights", "all"])
def test_a_new_run_from_another_ones_checkpoint(tmp_path: Path, manifest: Path, what: str) -> None:
    run(tmp_path, manifest, "a", 1, *FEW, "train.ema=0.5")
    text = f"text.model={tmp_path}/a/text_tokenizer.model"
    start = [f"train.start_from.run={tmp_path}/a", f"train.start_from.what={what}", text]
    still = [*FEW, "train.steps=1", "train.lr=1e-30", "train.warmup_steps=0"]
    run(tmp_path, manifest, "b", 1, *still, *start)
    kind = "ema" if what == "weights" else "fp32"
    assert all(weights(tmp_path / "b")[name].equal(tensor) for name, tensor in weights(tmp_path / "a", kind).items())
    state = read_state(complete(tmp_path / "b/checkpoints")[-1])
    assert state["adam_step"] == 1 + (4 if what == "all" else 0)
    assert state["samples"] == 8
    ((key, old, new, step),) = changes(tmp_path / "b")
    assert (key, old, step) == ("train.start_from", None, 0)
    assert new == str(complete(tmp_path / "a/checkpoints")[-1])
    shutil.rmtree(tmp_path / "a/checkpoints")
    assert len(run(tmp_path, manifest, "b", 1, *still, *start, "train.steps=2")) == 2, "it goes on without the other run"


def refusals(runs: list[list[str]], ports: list[int], free: int | None = None) -> list[str]:
    """Why each of several runs is refused; "" if it is not. `free`: bytes on the disk."""
    from megatron.core import parallel_state

    real, found = shutil.disk_usage, []
    if free is not None:
        shutil.disk_usage = lambda path: real(path)._replace(free=free)  # type: ignore[assignment]
    for arguments, port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        try:
            assert main(arguments) == 0
            found.append("")
        except ConfigError as error:
            found.append(str(error))
            if dist.is_initialized():  # a start that is refused leaves that to the end of its process
                parallel_state.destroy_model_parallel()
                dist.destroy_process_group()
    return found


def test_a_start_from_what_does_not_fit_is_refused(tmp_path: Path, manifest: Path) -> None:
    run(tmp_path, manifest, "a", 1, *FEW, "train.steps=1")
    start = [f"train.start_from.run={tmp_path}/a", f"text.model={tmp_path}/a/text_tokenizer.model"]
    wrong = {
        "llm.width=24 llm.rope_axes=[2,2,2]": r"start_from\.run: .*has shape \[.*the run's model has \[",
        "llm.layers=1": r"start_from\.run: .*that the run's model lacks, the first: trunk\.blocks\.1",
        "llm.layers=3": r"start_from\.run: .*has no parameter 'trunk\.blocks\.2",
        f"train.start_from.run={tmp_path}": r"start_from\.run .*: no checkpoint there",
        "text.model=null text.vocab_size=290": r"set text\.model=.*/a/text_tokenizer\.model",
    }
    runs = [words(tmp_path, manifest, "b", *FEW, *start, *extra.split()) for extra in wrong]
    (found,) = run_ranks(refusals, 1, runs, [free_port() for _ in runs])
    for refusal, pattern in zip(found, wrong.values(), strict=True):
        assert re.search(pattern, refusal)
    assert not (tmp_path / "b").exists()


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(tmp_path: Path, manifest: Path) -> None:
    run(tmp_path, manifest, "a", 1, *FEW)
    one = sum(path.stat().st_size for path in complete(tmp_path / "a/checkpoints")[-1].glob("*.safetensors"))
    new, more = words(tmp_path, manifest, "b", *FEW), words(tmp_path, manifest, "a", *FEW, "train.steps=5")
    (found,) = run_ranks(refusals, 1, [new, more], [free_port(), free_port()], int(2.9 * one))
    assert re.search(rf"run\.root {tmp_path}: .* GiB are free, .* are needed.*keep_last \+ 1 = 3", found[0])
    assert found[1] == "", "two of three are there already"
    assert not (tmp_path / "b").exists()
    assert run_ranks(refusals, 1, [new], [free_port()], int(3.1 * one)) == [[""]]
