"""A run with tensor parallelism generates as one process does: its weights are whole wherever they are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hitvideo.generation.engine import generate_codes
from hitvideo.generation.loading import load_model
from hitvideo.generation.sampling import Sampling
from hitvideo.runs.directory import RunDirectory
from hitvideo.settings.programs import PretrainRun
from tests.pretrain.runs import half_done, run
from tests.samples import make_token_shards


def drawn(path: Path, tensor: int) -> list[np.ndarray]:
    directory = RunDirectory(path)
    settings = directory.settings_as(PretrainRun)
    assert settings.parallel.tensor == tensor
    model, _ = load_model(directory, settings, torch.device("cpu"))
    prompts = ["a red thing", "a blue thing, number 3"]
    return generate_codes(model, directory.text_tokenizer(), prompts, Sampling(temperature=1.0))


@pytest.mark.slow
def test_codes_of_two_tensor_parallel_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    """Trained by two ranks; read from their weights, from their checkpoint, and from what one process made of that."""
    manifest, steps = make_token_shards(tmp_path / "tokens"), ["train.steps=2", "checkpoint.every=1", "checkpoint.keep_last=4"]
    run(tmp_path, manifest, "two", 2, "parallel.tensor=2", *steps)
    half_done(tmp_path / "two", "one", 2)
    run(tmp_path, manifest, "one", 1, "parallel.tensor=1", *steps)
    half_done(tmp_path / "two", "before", 1)
    codes, alone = drawn(tmp_path / "two", 2), drawn(tmp_path / "one", 1)
    assert all(np.array_equal(a, b) for a, b in zip(codes, alone, strict=True))
    shutil.rmtree(tmp_path / "two/weights")
    checkpointed = drawn(tmp_path / "two", 2)
    assert all(np.array_equal(a, b) for a, b in zip(codes, checkpointed, strict=True))
    earlier = drawn(tmp_path / "before", 2)
    assert not all(np.array_equal(a, b) for a, b in zip(codes, earlier, strict=True)), "the second step shows in the codes"
