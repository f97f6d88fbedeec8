"""The options of `hitvideo data pack` and `hitvideo data moving-shapes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitvideo.commands.cli import main
from hitvideo.data.video_shards import list_shards, read, scan
from tests.data.tars import MP4


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "in" / "clips").mkdir(parents=True)
    lines = ["name,score,words"]
    for number in range(20):
        (tmp_path / "in" / "clips" / f"{number:02d}.mp4").write_bytes(MP4)
        lines.append(f"{number:02d},{number / 2},caption {number}")
    (tmp_path / "in" / "list.csv").write_text("\n".join(lines))
    return tmp_path / "in" / "list.csv"


def keys(out: Path) -> list[str]:
    return [read(shard, member).key for shard in list_shards(str(out)) for member in scan(shard).samples]


def code(*words: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_pack_a_table(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["data", "pack", table, out, "--file-template", "clips/{name}.mp4", "--caption-column", "words",
             "--min", "score=2", "--max", "score=8.5", "--per-shard", "4"]  # fmt: skip
    assert code(*words, "--dry-run") == 0
    found = "14 videos in 4 video shards; 20 found = 14 packed + 0 without caption + 6 filtered out"
    assert f"would write {found}" in capsys.readouterr().out
    assert not out.exists()
    assert code(*words) == 0
    assert found in capsys.readouterr().out
    assert sorted(keys(out)) == [f"clips/{number:02d}" for number in range(4, 18)] != keys(out)
    words[3] = tmp_path / "kept"
    assert code(*words, "--no-shuffle", "--where", "name=07") == 0
    assert keys(tmp_path / "kept") == ["clips/07"]


def test_kinds_that_are_left_out_are_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.gif", "b.GIF", "c.rmvb", "d.mp4", "d.txt"):
        (table.parent / "more" / name).parent.mkdir(exist_ok=True)
        (table.parent / "more" / name).write_bytes(MP4)
    (table.parent / "more" / "d.txt").write_text("words")
    assert code("data", "pack", table.parent / "more", table.parent.parent / "out") == 0
    assert "4 found = 1 packed + 0 without caption + 3 of other kinds (.gif 2, .rmvb 1)" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--min", "score"], ["--min", "score=nan"], ["--max", "score=high"], ["--min", "nil=1"]])
def test_filters_that_cannot_be_used(table: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "pack", table, table.parent.parent / "out", "--file-template", "clips/{name}.mp4"]
    assert code(*words, "--caption-column", "words", *more) == 2
    assert more[1].partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--seed", "-1"], ["--num", "0"], ["--per-shard", "-3"], ["--seed", str(1 << 70)]])
def test_moving_shapes_bounds(tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code("data", "moving-shapes", tmp_path / "out", "--num", "3", *more) == 2
    assert f"got {more[1]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
