"""The one rule for the newest checkpoint: complete, and as its checksums say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hitvideo.checkpoints.listing import complete, damage, newest, step_of
from hitvideo.errors import ConfigError
from tests.checkpoints.written import write_checkpoint


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for step in (2, 4, 10):
        write_checkpoint(tmp_path / f"step-{step:08d}", {"norm": torch.ones(3)}, 1, 2)
    (tmp_path / "step-00000012.partial-1234").mkdir()
    (tmp_path / "step-00000014").mkdir()  # without state.json
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_only_complete_ones_count_in_order_of_steps(checkpoints: Path) -> None:
    assert [step_of(path) for path in complete(checkpoints)] == [2, 4, 10]
    assert complete(checkpoints / "absent") == []
    assert newest(checkpoints) == checkpoints / "step-00000010"
    assert newest(checkpoints / "absent") is None


@pytest.mark.parametrize("file", ["rank-00001.safetensors", "rank-00000.json", "index.json", "state.json"])
def test_a_damaged_one_is_skipped(checkpoints: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    path = checkpoints / "step-00000010" / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert newest(checkpoints) == checkpoints / "step-00000004"
    assert "step-00000010" in caplog.text


def test_readers_share_the_files(checkpoints: Path) -> None:
    """Of two readers one finds the missing file, so that together they read each file once."""
    path = checkpoints / "step-00000010"
    (path / "rank-00001.json").unlink()
    assert [damage(path, reader, 2) for reader in (0, 1)].count(None) == 1


def test_all_damaged_is_an_error(checkpoints: Path) -> None:
    for path in complete(checkpoints):
        (path / "rank-00000.json").unlink()
    with pytest.raises(ConfigError, match="all 3 checkpoints"):
        newest(checkpoints)
