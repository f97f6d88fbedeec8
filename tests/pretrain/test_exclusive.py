"""Two starts of one run: the second one is refused, and neither STOP file nor unfinished checkpoints of the first are lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hitvideo.runs.ownership import held
from pretrain.language_model import main
from tests.pretrain.runs import metrics, run, words
from tests.worlds import RankError, run_ranks


@pytest.mark.parametrize("world", [1, 2])
def test_a_second_start_is_refused_on_every_rank_and_touches_nothing(tmp_path: Path, manifest: Path, world: int) -> None:
    run(tmp_path, manifest, "a", 1, "train.steps=2", "checkpoint.every=1")
    first = tmp_path / "a"
    (first / "STOP").touch()
    (first / "checkpoints/step-00000003.partial-1").mkdir()
    with held(first):  # as another process would: the lock is of the open file, not of the process
        before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
        with pytest.raises(RankError, match=r"ConfigError: .*process \d+ on .* holds this run since") as refused:
            run_ranks(main, world, words(tmp_path, manifest, "a", "train.steps=4"))
        assert re.search(r"RankError|rank \d failed", str(refused.value))
        assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
        assert (first / "checkpoints/step-00000003.partial-1").is_dir()
    (first / "STOP").unlink()
    run(tmp_path, manifest, "a", world, "train.steps=4", "checkpoint.every=1")
    assert [row["step"] for row in metrics(first)] == [1, 2, 3, 4]
