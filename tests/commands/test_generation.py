"""`hitvideo generate` keeps what it drew: names differ, and files are replaced only if asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hitvideo.commands.common import check_output
from hitvideo.errors import ConfigError
from tests.commands.conftest import Call
from tests.conftest import ROOT


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    return shutil.copytree(world / "run", tmp_path / "run")


def test_without_out_nothing_that_was_drawn_is_replaced(call: Call, run: Path) -> None:
    drawn: dict[str, bytes] = {}
    for prompts, guidance in (("a", 5), ("b", 5), ("ab", 5), ("a", 1), ("a", 5)):
        asked = [word for prompt in prompts for word in ("--prompt", prompt)]
        code, out, _ = call("generate", "--run", run, "--levels", "1", "--guidance", f"{guidance}", *asked)
        assert code == 0
        assert all(Path(line.rpartition("  ")[0]).is_file() for line in out.splitlines())
        now = {path.name: path.read_bytes() for path in (run / "samples").glob("*.mp4")}
        assert len(now) == len(drawn) + len(prompts)
        assert drawn.items() <= now.items()
        drawn = now
    groups = [json.loads(path.read_text()) for path in sorted((run / "samples").glob("*.json"))]
    assert [[video["label"] for video in group["videos"]] for group in groups] == [["a"], ["b"], ["a", "b"], ["a"], ["a"]]
    assert "guidance 1," in groups[3]["title"]


def test_several_prompts_make_several_files_and_each_is_kept(call: Call, run: Path, tmp_path: Path) -> None:
    words = ("generate", "--run", run, "--levels", "1", "--prompt", "a", "--prompt", "b", "--out", tmp_path / "new/x.MP4")
    assert call(*words)[0] == 0
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()}
    assert files.keys() == {"x-0.MP4", "x-0.png", "x-1.MP4", "x-1.png"}
    (tmp_path / "new/x-0.MP4").unlink()
    code, _, error = call(*words)
    assert (code, "x-0.png" in error) == (2, True)
    assert call(*words, "--overwrite")[0] == 0


@pytest.mark.parametrize("out", [[], ["--out", ""], ["--out", "/"], ["--out", "."]])
def test_a_place_that_takes_nothing_is_refused_before_drawing(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch, out: list[str]
) -> None:
    (run / "samples").write_text("a file")
    monkeypatch.setattr("hitvideo.generation.generator.load_generator", None)
    for prompts in (["--prompt", "a"], ["--prompt", "a", "--prompt", "b"]):
        code, _, error = call("generate", "--run", run, *prompts, *out)
        assert (code, error.count("\n")) == (2, 1)


NAMES = ["x" * 251 + ".mp4", "x" * 248 + ".mp4", "", ".", ".mp4", "a/", "x.mp4.tmp"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_cannot_be_written_are_refused_beforehand(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_output(tmp_path / name, ".mp4")
    assert len(str(caught.value)) < 700
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_the_terminal_cannot_show_is_escaped(run: Path, tmp_path: Path) -> None:
    words = ["generate", "--run", str(run), "--levels", "1", "--prompt", "東京", "--out", str(tmp_path / "x.mp4")]
    source = f"from hitvideo.commands.cli import main; main({words!r})"
    command = ["env", "PYTHONIOENCODING=ascii:strict", sys.executable, "-c", source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/x.mp4  \\u6771\\u4eac\n")
