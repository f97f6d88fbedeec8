"""The reference is made from the code of today, and names what real runs write."""

from __future__ import annotations

from pathlib import Path

import pytest

import hitvideo
from hitvideo.commands.cli import parser
from hitvideo.commands.reference import metrics, runs
from hitvideo.commands.reference.__main__ import PAGES, text
from hitvideo.commands.reference.command_line import commands
from hitvideo.commands.reference.configuration import type_text
from hitvideo.data.pack import write_moving_shapes
from hitvideo.runs import program
from hitvideo.runs.history import read_lines
from hitvideo.settings.explain import find, keys
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun
from pretrain.video_tokenizer import main as train_tokenizer
from tests.conftest import ROOT
from tests.pretrain.runs import TOKENIZER, TOKENIZER_WORDS, run
from tests.samples import make_token_shards, tiny_hierarchy
from tests.worlds import run_ranks
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.job import Stages
from tokenize_shards.meter import TaskMeter

FOLDER = ROOT / "docs/reference"
PHASES = [
    "loss.adversarial={weight: 0.2, channels: 8, layers: 2}", "train.steps=4", "checkpoint.every=4",
    "phases=[{name: all-levels, steps: 2}, {name: sharp, steps: 2, adversarial: true}]",
]  # fmt: skip
GROUPS = "llm.groups=[null,null,null,[1,2,2]]"
ONLY_SOMETIMES = {"gpu_memory_gib", "gpu_load", "gpu_watts", "gpu_celsius", "skipped", "checkpoint_failed", "perceptual"}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_fresh(name: str) -> None:
    assert (FOLDER / name).read_text() == text(name), "make reference"


def test_there_are_no_other_pages() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_key_command_and_name_is_there() -> None:
    configuration, command_line, python_api = (text(name) for name in ("configuration.md", "command-line.md", "python-api.md"))
    for found in find("").values():
        for key in found:
            assert key.dotted == "program" or f"| `{key.dotted}` |" in configuration, key.dotted
    for words, each in commands(parser()):
        assert f"### hitvideo {' '.join(words)}\n" in command_line
        for action in each._actions:
            assert all(f"`{option}" in command_line for option in action.option_strings if option not in ("-h", "--help"))
            assert action.help, f"{words}: {action.dest} says nothing"
    assert all(f"\n## {name}\n" in python_api for name in hitvideo.__all__)


def test_a_default_of_a_program_is_its_own() -> None:
    for model, stage in ((PretrainRun, 3), (VideoTokenizerRun, 1)):
        assert {key.dotted: key.default for key in keys(model)}["parallel.zero_stage"] == stage


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.lr", "number > 0"), ("train.min_lr_ratio", "number 0 … 1"), ("faults.spike_window", "whole number ≥ 8"),
        ("faults.spike_sigmas", "number > 0 or null"), ("llm.rope_axes", "3 × whole number > 0"), ("run.name", "text"),
        ("train.schedule", "`cosine` or `wsd` or `constant`"), ("data.blend", "list of mapping"),
    ],
)  # fmt: skip
def test_types_in_words(key: str, words: str) -> None:
    (field,) = (each.field for each in keys(PretrainRun) if each.dotted == key)
    assert type_text(field.annotation, field.metadata) == words


def test_every_exit_code_has_a_meaning() -> None:
    assert {f"EXIT_{name}" for name in runs.EXIT_CODES} == {name for name in dir(program) if name.startswith("EXIT_")}


def logged(directory: Path) -> set[str]:
    return {key for line in read_lines(directory / "metrics.jsonl") for key in line.content}


def undocumented(keys_: set[str], *sections: tuple[metrics.Metric, ...]) -> set[str]:
    known = [metric for section in (metrics.ALL, *sections) for metric in section]
    missing = {metric.key for metric in known if not any(metric.fits(key) for key in keys_)}
    assert missing <= ONLY_SOMETIMES, f"documented, and not logged: {missing - ONLY_SOMETIMES}"
    return {key for key in keys_ if not any(metric.fits(key) for metric in known)}


def test_what_a_tokenization_logs_is_in_the_page(tmp_path: Path) -> None:
    with DecodingPool(0, 1.0, 1.0, 1.0) as pool:
        TaskMeter(Stages(), pool, tmp_path / "metrics.jsonl", 1).log()
    assert not undocumented(logged(tmp_path), metrics.TOKENIZING)


@pytest.mark.slow
def test_what_a_language_model_logs_is_in_the_page(tmp_path: Path) -> None:
    run(tmp_path, make_token_shards(tmp_path / "tokens"), "llm", 1, "train.steps=2", GROUPS)
    assert not undocumented(logged(tmp_path / "llm"), metrics.TRAINING, metrics.LANGUAGE_MODEL)


@pytest.mark.slow
def test_what_a_video_tokenizer_logs_is_in_the_page(tmp_path: Path) -> None:
    write_moving_shapes(tmp_path / "shards", 24, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=12)
    words = [TOKENIZER, f"data.video_shards={tmp_path / 'shards'}", f"run.root={tmp_path}", "run.name=vt", *TOKENIZER_WORDS]
    assert run_ranks(train_tokenizer, 1, [*words, *PHASES]) == [0]
    assert not undocumented(logged(tmp_path / "vt"), metrics.TRAINING, metrics.VIDEO_TOKENIZER)
