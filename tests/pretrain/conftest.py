"""Fixtures of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples import make_token_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset of token shards."""
    return make_token_shards(tmp_path_factory.mktemp("tokens"))
