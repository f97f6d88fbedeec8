"""A real Ray cluster on this machine gives the same bytes as the plain job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tokenize_shards.helpers import content, words
from tokenize_shards.__main__ import main


@pytest.mark.slow
def test_ray_gives_the_same_bytes(weights: Path, videos: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'hitvideo[ray]'")
    assert main(words(weights, videos, tmp_path / "quiet" / "out")) == 0
    try:
        assert main(["--engine", "ray", *words(weights, videos, tmp_path / "out")]) == 0
        assert content(tmp_path / "out") == content(tmp_path / "quiet" / "out")
    finally:
        ray.shutdown()
