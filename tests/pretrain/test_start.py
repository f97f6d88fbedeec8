"""A start that is refused: the nearest key or the fix in one line, and no run directory left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.language_model import main
from tests.conftest import ROOT
from tests.pretrain.runs import TINY, words
from tests.worlds import RankError, run_ranks

JOB = str(ROOT / "yaml_configs/tokenize_shards/tiny.yaml")
TOKENIZER = str(ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml")


@pytest.mark.parametrize(
    ("program", "file"),
    [("pretrain", TINY), ("pretrain.video_tokenizer", TOKENIZER), ("tokenize_shards", JOB)],
)
def test_a_wrong_key_is_refused_with_the_nearest_one(tmp_path: Path, program: str, file: str) -> None:
    command = [sys.executable, "-m", program, file, "run.nam=x", f"run.root={tmp_path}/runs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'run.nam'" in done.stderr
    assert "'run.name'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_found_wrong_later_leaves_no_directory_either(tmp_path: Path, manifest: Path) -> None:
    arguments = words(tmp_path, manifest, "a", f"text.model={tmp_path}/absent.model")
    with pytest.raises(RankError, match=r"ConfigError.*absent\.model"):
        run_ranks(main, 1, arguments)
    assert not (tmp_path / "a").exists()
