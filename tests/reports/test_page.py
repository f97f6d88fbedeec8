"""The report is one page that holds everything, and says what the runs measured."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from hitvideo.errors import ConfigError
from hitvideo.reports.page import write
from hitvideo.runs import gallery
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


def test_the_table_that_an_evaluation_keeps_is_shown_as_it_was_printed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    save_figures(run, "captions", {"caption_accuracy": {"colour": 0.9}, "chance": {}, "table": "  colour\n  90 % <b>"})
    headline = write([run])
    assert headline["caption_accuracy"] == {"colour": 0.9}
    assert "<pre>  colour\n  90 % &lt;b&gt;</pre>" in Path(headline["report"]).read_text()


def test_runs_of_one_program_share_pictures_and_rows(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("a", "_<i>b")]
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    for run, prompts in zip(runs, (["one", "two"], ["two", "<script>"]), strict=True):
        (run / "config.yaml").write_text("program: pretrain\ntrain: {lr: 1}\n")
        save_videos(run, f"of-{run.name[:1]}", "Same seed", [(prompt, frames) for prompt in prompts], fps=8)
    page = Path(write(runs)["report"]).read_text()
    assert page.count("<svg") == 4, "a metric is one picture of both runs"
    assert page.count("<h3>Same seed</h3>") == 1
    assert re.findall(r"<th class='label'>(.*?)</th>", page) == ["one", "two", "&lt;script&gt;"]
    cells = [re.findall(r"<td>(<video|–)", row) for row in re.findall(r"<tr><th>(?:a|_&lt;i&gt;b)</th>.*?</tr>", page)]
    assert cells == [["<video", "<video", "–"], ["–", "<video", "<video"]]
    (runs[1] / "config.yaml").write_text("program: pretrain\ntrain: {lr: 1, level_balance: 0.5}\n")
    assert "class='warning'" in Path(write(runs)["report"]).read_text()


def test_groups_come_back_by_name(tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    for name in ("b", "a"):
        save_videos(tmp_path, name, name.upper(), [("x", frames)], fps=8)
    assert [group.title for group in groups(tmp_path)] == ["A", "B"]


SECRET = "a secret outside of the run"
NAMES = [
    "../secret.mp4",
    "/etc/passwd",
    "sub/x.mp4",
    "..",
    "",
    ".",
    "secret.txt",
    "link.mp4",
    "deleted.mp4",
    "a\0.mp4",
    None,
    7,
    ["x.mp4"],
]


@pytest.mark.parametrize("name", NAMES)
def test_only_videos_inside_the_run_are_read(tmp_path: Path, name: object) -> None:
    run = make_run(tmp_path / "a")
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    save_videos(run, "good", "Good", [("shown", frames)], fps=8)
    for place in ("secret.mp4", "samples/secret.txt"):
        (run / place).write_text(SECRET)
    (tmp_path / "secret.mp4").write_text(SECRET)
    (run / "samples/link.mp4").symlink_to(run / "secret.mp4")
    hostile = {"title": "<script>t</script>", "videos": [{"label": "<script>l</script>", "file": name}, "no row", None]}
    (run / "samples/hostile.json").write_text(json.dumps(hostile))
    page = Path(write([run])["report"]).read_text()
    assert base64.b64encode(SECRET.encode()).decode()[:16] not in page
    assert page.count("data:video/mp4;base64,") == 1
    assert "<script>" not in page
    assert page.count("Left out") == 3


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", '{"videos": 5}', '{"videos": [5]}', '{"title": [1], "videos": {}}', "[" * 100_000]
)
def test_a_damaged_group_or_evaluation_is_named_and_the_rest_shown(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "a")
    save_figures(run, "captions", {"caption_accuracy": 0.5})
    (run / "samples").mkdir()
    (run / "samples/group.json").write_text(content)
    (run / "evaluation/reconstruction.json").write_text(content)
    headline = write([run])
    assert headline["caption_accuracy"] == 0.5
    assert "psnr_by_prefix" not in headline
    assert "<svg" in Path(headline["report"]).read_text()


def test_a_large_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a")
    save_videos(run, "g", "G", [("x", np.zeros((2, 16, 16, 3), np.uint8))], fps=8)
    monkeypatch.setattr(gallery, "LARGEST_FILE", 10)
    (group,) = groups(run)
    assert not group.videos
    assert "g-0.mp4" in group.left_out[0]


def test_rows_and_names_of_any_kind_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    name = r"validation_psnr_$\frac$ --><script>x</script>"
    rows = [{"loss": 1.0}, {"step": 1, name: 2.0}, {"step": 2, name: 1e308}, {"step": 3, "loss": 10**400}, {"step": 10**400}]
    rows += [{"step": 4, "loss": float("nan")}, {"step": 5, "grad_norm": None}, {"step": 6, "loss": True}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_bytes(b"run: {name: caf\xe9}\n")
    page = Path(write([run])["report"]).read_text()
    assert page.count("<svg") >= 2
    assert "<script>" not in page


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        write([tmp_path])
