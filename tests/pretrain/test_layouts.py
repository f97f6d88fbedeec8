"""One process, tensor parallel, data parallel and both give the same losses and gradient norms, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest

import pretrain.__main__ as program
from hitvideo.run import read_metrics
from tests.samples import ROOT, make_token_shards
from tests.worlds import run_ranks

TINY = str(ROOT / "yaml_configs/pretrain/tiny.yaml")
SMALL = [
    "llm.layers=2", "llm.width=48", "llm.heads=4", "llm.kv_heads=4", "llm.hidden=96", "llm.rope_axes=[4,4,4]",
    "train.steps=10", "train.global_batch=8", "train.micro_batch=2", "train.log_every=1", "train.warmup_steps=2",
    "train.clip=0.5", "tracking.enabled=false", "data.validation_samples=8", "train.validation_batches=1",
]


def run(tmp_path: Path, manifest: Path, name: str, world: int, *extra: str) -> list[dict[str, float]]:
    words = [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", f"run.name={name}", *SMALL, *extra]
    assert run_ranks(program.main, world, words) == [0] * world
    return read_metrics(tmp_path / name / "metrics.jsonl")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_shards(tmp_path_factory.mktemp("tokens"))


LAYOUTS = [
    (2, "parallel.tensor=2"),
    (2, "parallel.tensor=1"),
    (4, "parallel.tensor=2"),
    (2, "parallel.zero_stage=1"),
    (2, "parallel.tensor=2 parallel.activation_checkpointing=block"),
]


def test_every_layout_gives_the_numbers_of_one_process(tmp_path: Path, manifest: Path) -> None:
    one = run(tmp_path, manifest, "one", 1)
    assert [row["step"] for row in one] == list(range(1, 11))
    assert one[-1]["loss"] < one[0]["loss"]
    for number, (world, words) in enumerate(LAYOUTS):
        other = run(tmp_path, manifest, f"layout-{number}", world, *words.split())
        for mine, theirs in zip(one, other, strict=True):
            for key in mine:
                if key.startswith(("loss", "grad_norm", "validation")):
                    assert theirs[key] == pytest.approx(mine[key], rel=1e-5), (words, mine["step"], key)
