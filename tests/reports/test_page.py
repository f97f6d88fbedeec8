"""The report is one page that holds everything, and says what the runs measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hitvideo.errors import ConfigError
from hitvideo.reports.page import write
from hitvideo.runs.gallery import groups, save_figures, save_videos


def make_run(path: Path) -> Path:
    path.mkdir()
    (path / "config.yaml").write_text("run: {name: <b>bold</b>}\n")
    (path / "started").write_text("1000\n")
    rows = [{"step": n, "loss": 3 / n, "loss_level_0": 2 / n, "grad_norm": 1.0, "tokens_per_s": 10.0} for n in range(1, 9)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_page_is_self_contained_and_escapes_what_it_shows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    save_videos(run, "g", "Two videos", [("<script>x</script>", frames), ("b", frames)], fps=8)
    save_figures(run, "reconstruction", {"psnr_by_prefix": [20.0, 25.5]})
    save_figures(run, "captions", {"caption_accuracy": {"colour": 0.9}, "chance": {"colour": 1 / 6}})
    headline = write([run])
    assert headline["psnr_by_prefix"] == [20.0, 25.5]
    assert headline["caption_accuracy"] == {"colour": 0.9}
    assert headline["seconds"] > 0
    page = Path(headline["report"]).read_text()
    assert page.count("data:video/mp4;base64,") == 2
    assert not re.search(r"(src|href)=['\"](?!data:)(?!#)", page), "something is linked, not contained"
    assert "<script>x" not in page
    assert "<b>bold" not in page
    assert page.count("<svg") == 4  # loss, loss by level, gradient norm, tokens per second
    assert "25.5" in page


def test_groups_come_back_by_name(tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    for name in ("b", "a"):
        save_videos(tmp_path, name, name.upper(), [("x", frames)], fps=8)
    assert [group["title"] for group in groups(tmp_path)] == ["A", "B"]


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        write([tmp_path])
