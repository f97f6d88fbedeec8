"""Which old checkpoints go when a new one is complete."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hitvideo.checkpoints.listing import complete, newest, step_of
from hitvideo.parallel.save import Saver
from hitvideo.settings.run import CheckpointSection
from tests.checkpoints.written import write_checkpoint

WEIGHTS = {"norm": torch.ones(3)}


@pytest.mark.parametrize(
    ("steps", "damaged", "written", "settings", "kept"),
    [
        ([10, 20, 30], [], 30, {"keep_last": 2}, [20, 30]),
        # The run went on from 20, because 30 and 40 are damaged: they count for nothing, and are overwritten in time.
        ([10, 20, 25, 30, 40], [30, 40], 25, {"keep_last": 2}, [20, 25, 30, 40]),
        ([20, 25, 30, 40, 50], [30, 40, 50], 25, {"keep_last": 1}, [25, 30, 40, 50]),
        ([10, 20, 30, 40, 45, 50], [50], 45, {"keep_last": 1, "keep_every": 20}, [20, 40, 45, 50]),
        ([10], [], 10, {"keep_last": 3}, [10]),
    ],
)
def test_a_damaged_newer_checkpoint_costs_no_good_one(
    tmp_path: Path, steps: list[int], damaged: list[int], written: int, settings: dict[str, int], kept: list[int]
) -> None:
    for step in steps:
        path = write_checkpoint(tmp_path / f"step-{step:08d}", WEIGHTS, 1, 1)
        if step in damaged:
            (path / "rank-00000.safetensors").write_bytes(b"")
    saver: Any = SimpleNamespace(_directory=tmp_path, _settings=CheckpointSection.model_validate(settings))
    Saver._rotate(saver, written)
    assert [step_of(path) for path in complete(tmp_path)] == kept
    assert len(list(tmp_path.iterdir())) == len(kept), "nothing half deleted is left"
    found = newest(tmp_path)
    assert found is not None
    assert step_of(found) == written
