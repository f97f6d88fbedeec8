"""Small runs of the language model that several test files start, and what they compare."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from hitvideo.checkpoints.listing import complete, step_of
from hitvideo.runs.directory import RunDirectory
from pretrain.language_model import main
from tests.conftest import ROOT
from tests.worlds import free_port, run_ranks

TINY = str(ROOT / "yaml_configs/pretrain/tiny.yaml")
SMALL = [
    "llm.layers=2", "llm.width=48", "llm.heads=4", "llm.kv_heads=4", "llm.hidden=96", "llm.rope_axes=[4,4,4]",
    "train.steps=10", "train.global_batch=8", "train.micro_batch=2", "train.log_every=1", "train.warmup_steps=2",
    "train.clip=0.5", "tracking.enabled=false", "data.validation_samples=8", "train.validation_batches=1",
]  # fmt: skip
TOKENIZER = str(ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml")
TOKENIZER_WORDS = [
    "video_tokenizer.channels=[8,16,16]", "train.steps=8", "train.global_batch=8", "train.micro_batch=4", "train.log_every=1",
    "train.warmup_steps=2", "checkpoint.every=4", "loss.unquantized_until=0.5", "tracking.enabled=false",
    "data.validation_clips=8", "train.validation_batches=1", "train.validate_every=4",
]
Rows = list[dict[str, float]]


def words(tmp_path: Path, manifest: Path, name: str, *extra: str) -> list[str]:
    """The command line of a small run."""
    return [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", f"run.name={name}", *SMALL, *extra]


def several(runs: Sequence[Sequence[str]], ports: Sequence[int]) -> list[int]:
    """Several runs one after the other in the same processes."""
    codes = []
    for arguments, port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        codes.append(main(list(arguments)))
    return codes


def run_all(tmp_path: Path, manifest: Path, world: int, runs: dict[str, str]) -> dict[str, Rows]:
    """Names and each run's extra words → metrics."""
    arguments = [words(tmp_path, manifest, name, *extra.split()) for name, extra in runs.items()]
    ports, timeout = [free_port() for _ in arguments], 240 + 60 * len(runs)  # each run starts an engine anew
    assert run_ranks(several, world, arguments, ports, timeout=timeout) == [[0] * len(runs)] * world
    return {name: metrics(tmp_path / name) for name in runs}


def run(tmp_path: Path, manifest: Path, name: str, world: int, *extra: str) -> Rows:
    """One run's metrics."""
    return run_all(tmp_path, manifest, world, {name: " ".join(extra)})[name]


def metrics(directory: Path) -> Rows:
    return RunDirectory(directory).metrics()


def compare(one: Rows, other: Rows, what: object, rel: float = 1e-5) -> None:
    """Losses, norms and validation of two runs are equal step by step."""
    for mine, theirs in zip(one, other, strict=True):
        for key in mine:
            if key.startswith(("loss", "grad_norm", "validation")):
                assert theirs[key] == pytest.approx(mine[key], rel=rel), (what, mine["step"], key)


def numbers(rows: Rows) -> Rows:
    """The part of the rows that does not depend on time."""
    return [{k: v for k, v in row.items() if k.startswith(("step", "loss", "grad_norm", "validation"))} for row in rows]


def half_done(finished: Path, name: str, step: int) -> None:
    """A copy of a run as a kill after a step would have left it, with later rows that no checkpoint covers."""
    copy = RunDirectory(finished.with_name(name))
    shutil.copytree(finished, copy.path)
    copy.done_mark.unlink()
    shutil.rmtree(copy.weights)
    for path in complete(copy.checkpoints):
        if step_of(path) > step:
            shutil.rmtree(path)
    copy.config.write_text(copy.config.read_text().replace(f"name: {finished.name}", f"name: {name}"))
    rows = copy.metrics()[: step + 2]
    copy.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
