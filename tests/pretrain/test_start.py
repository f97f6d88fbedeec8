"""A start that is refused: the nearest key or the fix in one line, and no run directory left behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from hitvideo.errors import ConfigError
from hitvideo.parallel.topology import start
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain import language_model_task, task
from pretrain.language_model import main
from pretrain.task import learning_rate, warn_of_new_length
from tests.conftest import ROOT
from tests.pretrain.runs import TINY, run, words
from tests.samples import make_token_shards
from tests.worlds import RankError, run_ranks

JOB = str(ROOT / "yaml_configs/tokenize_shards/tiny.yaml")
TOKENIZER = str(ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml")


@pytest.mark.parametrize(
    ("program", "file"),
    [("pretrain", TINY), ("pretrain.video_tokenizer", TOKENIZER), ("tokenize_shards", JOB)],
)
def test_a_wrong_key_is_refused_with_the_nearest_one(tmp_path: Path, program: str, file: str) -> None:
    command = [sys.executable, "-m", program, file, "run.nam=x", f"run.root={tmp_path}/runs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'run.nam'" in done.stderr
    assert "'run.name'" in done.stderr
    assert list(tmp_path.iterdir()) == []


WRONG = {
    "absent.model": "text.model=/absent.model",
    "has levels of": "hierarchy.levels=[{down: [8, 8, 8], num_bits: 9}]",
    "absent/weights": "video_tokenizer.weights=/absent/weights",
    "absent/manifest": "data.manifest=/absent/manifest.json",
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_data_hierarchy_and_tokenizers_are_found_without_ranks(
    tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("pretrain.task.start", None)  # no process group is needed to say so
    with pytest.raises(ConfigError, match=what):
        main(words(tmp_path, manifest, "a", WRONG[what]))
    assert not (tmp_path / "a").exists()


def test_what_is_found_wrong_later_leaves_no_directory_either(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(RankError, match=r"ConfigError.*train\.global_batch"):
        run_ranks(main, 1, words(tmp_path, manifest, "a", "train.global_batch=7"))
    assert not (tmp_path / "a").exists()


def fail(arguments: list[str]) -> int:
    """A start that breaks after its directory is made, as a killed one would."""
    language_model_task.make_model = None  # type: ignore[assignment]
    return main(arguments)


def test_a_start_that_broke_before_its_first_step_allows_other_settings(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(RankError, match="TypeError"):
        run_ranks(fail, 1, words(tmp_path, manifest, "a", "train.steps=2", "text.vocab_size=300"))
    assert (tmp_path / "a/config.yaml").is_file()
    rows = run(tmp_path, manifest, "a", 1, "train.steps=2", "text.vocab_size=320")
    assert [row["step"] for row in rows] == [1, 2]
    assert RunDirectory(tmp_path / "a").text_tokenizer().size > 300 - 20


def test_a_large_data_set_needs_a_text_tokenizer(tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.task.start", None)
    monkeypatch.setattr(language_model_task, "_MOST_UNASKED", 3)
    with pytest.raises(ConfigError, match=r"text\.model.*hitvideo data text-tokenizer"):
        main(words(tmp_path, manifest, "a"))
    assert not (tmp_path / "a").exists()


def resumed(arguments: list[str]) -> int:
    """A start that may not draw."""
    language_model_task.draw_weights = None  # type: ignore[assignment, attr-defined]
    return main(arguments)


def test_weights_are_drawn_only_without_a_checkpoint(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(RankError, match="TypeError"):
        run_ranks(resumed, 1, words(tmp_path, manifest, "a", "train.steps=1"))
    run(tmp_path, manifest, "a", 1, "train.steps=1")
    assert run_ranks(resumed, 1, words(tmp_path, manifest, "a", "train.steps=2")) == [0]


def slow_export(arguments: list[str]) -> int:
    """Rank 0 needs longer for the weights than a collective may last."""

    def slow(*inputs: Any) -> None:
        time.sleep(12)
        save_file(*inputs)

    language_model_task.save_file = slow  # type: ignore[attr-defined]
    task.start = lambda tensor, context, _: start(tensor, context, 8.0)  # type: ignore[assignment, attr-defined, misc]
    return main(arguments)


@pytest.mark.slow
def test_no_rank_waits_for_the_weights_in_a_collective(tmp_path: Path, manifest: Path) -> None:
    assert run_ranks(slow_export, 2, words(tmp_path, manifest, "a", "train.steps=1")) == [0, 0]
    assert RunDirectory(tmp_path / "a").done


def test_more_data_are_refused_in_words_and_more_steps_warned_of(
    tmp_path: Path, manifest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = ["train.steps=4", "checkpoint.every=2"]
    run(tmp_path, manifest, "a", 1, *few)
    larger = make_token_shards(tmp_path / "larger", shards=3)
    with pytest.raises(RankError, match=rf"was trained on other data than data\.manifest {larger} .*choose another run\.name"):
        run_ranks(main, 1, words(tmp_path, larger, "a", "train.steps=6"))
    moved = shutil.copytree(manifest.parent, tmp_path / "moved") / manifest.name
    assert [row["step"] for row in run(tmp_path, moved, "a", 1, "train.steps=6")] == list(range(1, 7))

    directory = RunWriter(load_settings_as(PretrainRun, TINY, words(tmp_path, moved, "a", "train.steps=12")[1:]), True)
    warn_of_new_length(load_settings_as(PretrainRun, TINY, words(tmp_path, moved, "a", "train.steps=12")[1:]), directory)
    lr = {row["step"]: row["lr"] for row in directory.metrics()}
    assert "train.steps was 6 and is now 12" in caplog.text
    after, instead = (float(number) for number in re.search(r"is ([\d.e-]+), not ([\d.e-]+);", caplog.text).groups())  # type: ignore[union-attr]
    assert instead == pytest.approx(learning_rate(directory.before.train, 6), rel=1e-2)  # type: ignore[union-attr]
    assert after > lr[6]
