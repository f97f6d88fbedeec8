"""One process, tensor parallel, data parallel and both give the same losses and gradient norms, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pretrain.__main__ as program
from hitvideo.ops.attention import flash_missing
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


@pytest.mark.slow
def test_bf16_stays_in_a_band_around_fp32_on_every_layout(tmp_path: Path, manifest: Path) -> None:
    """bf16 has 8 bits of mantissa: 2^-8 = 0.4 % on a value; losses of ten steps stay within 1 %, norms within 5 %."""
    exact = run(tmp_path, manifest, "fp32", 1)
    for number, (world, words) in enumerate([(1, ""), (4, "parallel.tensor=2")]):
        rough = run(tmp_path, manifest, f"bf16-{number}", world, "train.dtype=bf16", *words.split())
        for mine, theirs in zip(exact, rough, strict=True):
            assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-2)
            assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=5e-2)


@pytest.mark.gpu
@pytest.mark.skipif(flash_missing("cuda", torch.bfloat16) is not None, reason="needs flash-attn")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_attention_trains_like_sdpa_on_a_gpu(tmp_path: Path, manifest: Path) -> None:
    """NCCL, bf16 and fused kernels by the same program; the band is bf16's."""
    losses = []
    for attention in ("sdpa", "flash"):
        words = [TINY, f"data.manifest={manifest}", f"run.root={tmp_path}", f"run.name={attention}", *SMALL]
        assert run_ranks(program.main, 1, [*words, "train.dtype=bf16", f"llm.attention={attention}"]) == [0]
        losses.append([row["loss"] for row in read_metrics(tmp_path / attention / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
