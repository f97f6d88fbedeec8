"""Fixtures: a small untrained video tokenizer and small videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitvideo.data.pack import write_moving_shapes
from tests.samples import tiny_hierarchy
from tests.tokenize_shards.helpers import CLIPS, PER_SHARD, save_tokenizer


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("weights"), 0)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("videos")
    write_moving_shapes(out, CLIPS, 0, tiny_hierarchy()[1], "mixed", PER_SHARD)
    return out
