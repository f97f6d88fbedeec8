"""slurm/pipeline.sh with an sbatch that only notes how it is called: its jobs, and which text tokenizer the model gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CONFIGS = [f"yaml_configs/{name}/tiny.yaml" for name in ("pretrain_tokenizer", "tokenize_shards")]
SBATCH = '#!/bin/bash\necho "$*" >> "$CALLS"\nwc -l < "$CALLS"\n'


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SBATCH_OPTIONS", "--nodes=4 --gpus-per-node=8")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def submitted(work: Path, overrides: str = "") -> dict[str, list[str]]:
    """Script → the words of its submission. `overrides`: lines of the language model's YAML."""
    config = work.parent / "pretrain.yaml"
    config.write_text(f"base: [{ROOT}/yaml_configs/pretrain/tiny.yaml]\n{overrides}")
    line = ["slurm/pipeline.sh", str(work), "shards", "a prompt", *CONFIGS, str(config)]
    done = subprocess.run(["bash", *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = [call.split() for call in (work.parent / "calls").read_text().splitlines()]
    return {next(word for word in call if word.startswith("slurm/"))[6:-3]: call for call in calls}


def after(call: list[str]) -> str:
    return next((word.rpartition(":")[2] for word in call if word.startswith("--dependency=afterok:")), "")


def test_the_text_tokenizer_is_trained_between_tokens_and_model(work: Path) -> None:
    jobs = submitted(work, "text: {vocab_size: 300}\n")
    assert list(jobs) == ["pretrain_tokenizer", "tokenize_shards", "text_tokenizer", "pretrain", "generate"]
    assert [after(call) for call in jobs.values()] == ["", "1", "2", "3", "4"]
    text = jobs["text_tokenizer"]
    assert text[-5:] == ["slurm/text_tokenizer.sh", f"{work}/tokens/manifest.json", f"{work}/text.model", "--vocab-size", "300"]
    assert text.index("--nodes=4") < text.index("--nodes=1"), "of two, sbatch takes the last"
    assert text.index("--gpus-per-node=8") < text.index("--gpus-per-node=0")
    assert f"text.model={work}/text.model" in jobs["pretrain"]


def test_a_blend_gives_all_its_captions(work: Path) -> None:
    jobs = submitted(work, "data: {blend: [{manifest: a b/manifest.json, weight: 1}, {manifest: c.json, weight: 2}]}\n")
    words = " ".join(jobs["text_tokenizer"])
    assert words.endswith(f"slurm/text_tokenizer.sh a b/manifest.json c.json {work}/text.model --vocab-size 512")


@pytest.mark.parametrize(
    ("made", "overrides", "words"),
    [
        ("text.model", "", ["text.model={work}/text.model"]),  # by an earlier pipeline
        ("", "text: {model: mine.model}\n", []),
        ("runs/tiny-llm/text_tokenizer.model", "", []),  # the run began with its own
        ("text.model runs/tiny-llm/text_tokenizer.model", "", ["text.model={work}/text.model"]),
    ],
)
def test_a_text_tokenizer_that_is_there_is_not_trained(work: Path, made: str, overrides: str, words: list[str]) -> None:
    for name in made.split():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).touch()
    jobs = submitted(work, overrides)
    assert list(jobs) == ["pretrain_tokenizer", "tokenize_shards", "pretrain", "generate"]
    assert after(jobs["pretrain"]) == "2"
    assert [word for word in jobs["pretrain"] if word.startswith("text.")] == [word.format(work=work) for word in words]
