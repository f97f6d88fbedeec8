"""`hitvideo generate` keeps what it drew: names differ, and files are replaced only if asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hitvideo
from hitvideo.commands import cli
from hitvideo.commands.common import check_output
from hitvideo.errors import ConfigError
from hitvideo.generation.record import Fingerprints, Record, parse_record, read_record
from tests.commands.conftest import Call
from tests.conftest import ROOT
from tests.worlds import run_ranks


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
    assert files.keys() == {"x-0-a-seed0.MP4", "x-1-b-seed0.MP4", "x.png"}
    (tmp_path / "new/x-0-a-seed0.MP4").unlink()
    code, _, error = call(*words)
    assert (code, "x-1-b-seed0.MP4" in error) == (2, True)
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


def records(folder: Path) -> dict[tuple[str, int], Record]:
    """What the MP4s of a folder keep, by prompt and seed."""
    found = [read_record(path) for path in sorted(folder.glob("*.mp4"))]
    return {(record.prompt, record.seed): record for record in found}


def same(one: Record, other: Record) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))


def test_drafts_are_refined_to_what_all_levels_at_once_give(call: Call, run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red thing\n\n  Ünï/../códe: ⚽ " + "x" * 300 + "\n")
    settings = ("--temperature", "1", "--guidance", "3,2", "--negative", "green")
    words = ("generate", "--run", run, "--prompts", tmp_path / "prompts.txt", "--drafts", "3", "--seed", "7", *settings)
    assert call(*words, "--levels", "1", "--out", tmp_path / "drafts/d.mp4")[0] == 0
    assert call(*words, "--out", tmp_path / "whole/w.mp4")[0] == 0
    drafts, whole = records(tmp_path / "drafts"), records(tmp_path / "whole")
    assert drafts.keys() == whole.keys()
    assert [seed for _, seed in drafts] == [7, 8, 9, 7, 8, 9]
    names = sorted(path.name for path in (tmp_path / "drafts").iterdir())
    assert "d-0-a-red-thing-seed7.mp4" in names
    assert "d-5-uni-code-xxx" in names[5][:16]
    assert all(name.isascii() and len(name) < 80 for name in names)
    assert names[-1] == "d.png"
    chosen = sorted((tmp_path / "drafts").glob("*seed8.mp4"))
    code, out, _ = call("generate", "--run", run, "--out", tmp_path / "fine/f.mp4", "--refine", *chosen)
    assert (code, out.count(".mp4")) == (0, 2)
    fine = records(tmp_path / "fine")
    assert len(fine) == 2
    assert all(same(record, whole[key]) and len(record.codes) == 4 for key, record in fine.items())
    code, _, error = call("generate", "--run", run, "--refine", *chosen, "--guidance", "4")
    assert (code, "--guidance" in error) == (2, True)


def test_a_video_is_drawn_again_by_its_own_settings(call: Call, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.mp4"
    settings = ("--seed", "5", "--top-k", "9", "--temperature", "1")
    assert call("generate", "--run", run, "--prompt", "a", *settings, "--out", out)[0] == 0
    assert call("generate", "--run", run, "--same", out)[:2] == (0, f"{out}: all 180 codes are equal\n")
    record = read_record(out)
    shown = call("show", out)[1].splitlines()
    assert {"prompt: a", "seed: 5", "top_k: 9"} <= set(shown)
    assert parse_record(call("show", out, "--json")[1], "json").seed == 5
    forged = [np.where(np.arange(indices.size).reshape(indices.shape) < 1, indices ^ 1, indices) for indices in record.codes]
    replace(record, codes=forged).save(tmp_path / "forged.codes")
    code, text, _ = call("generate", "--run", run, "--same", tmp_path / "forged.codes")
    assert (code, "4 of 180 codes differ" in text) == (1, True)
    for changed in ({"made_by": Fingerprints("0123", "v")}, {"num_bits": [9, 9, 9, 8]}):
        replace(record, codes=[c & 1 for c in record.codes], **changed).save(tmp_path / "other.codes")
        code, _, error = call("generate", "--run", run, "--same", tmp_path / "other.codes")
        assert (code, "other.codes" in error) == (2, True)


def test_what_was_drawn_is_not_lost_if_decoding_fails(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", "--run", run, "--levels", "2", "--prompt", "a", "--prompt", "b")
    with monkeypatch.context() as broken:
        broken.setattr("hitvideo.generation.generator.Generator.decode", None)
        assert call(*words, "--out", tmp_path / "x.mp4")[0] == 1
    saved = sorted(tmp_path.glob("*.codes"))
    assert len(saved) == 2
    assert call("generate", "--run", run, "--levels", "2", "--refine", *saved, "--out", tmp_path / "y.mp4")[0] == 0
    assert call(*words, "--out", tmp_path / "z.mp4")[0] == 0
    found = [read_record(path) for name in ("y", "z") for path in sorted(tmp_path.glob(f"{name}-*.mp4"))]
    assert same(found[0], found[2])
    assert same(found[1], found[3])


def test_refining_in_python(run: Path, tmp_path: Path) -> None:
    opened = hitvideo.load_run(run)
    settings = {"temperature": 1.0, "seed": 3, "videos": 2}
    whole = opened.generate(["a", "b"], **settings)
    stories = opened.generate(["a", "b"], levels=1, **settings)
    assert [video.record.seed for video in stories if video.record] == [3, 4, 3, 4]
    for story, full in zip(stories, whole, strict=True):
        refined = story.refine()
        assert all(np.array_equal(a, b) for a, b in zip(refined.codes, full.codes, strict=True))
        assert np.array_equal(refined.frames, full.frames)
    hitvideo.write_video(tmp_path / "s.mp4", stories[1])
    assert read_record(tmp_path / "s.mp4").seed == 4
    with pytest.raises(ConfigError, match="refined"):
        hitvideo.Video(whole[0].frames, 8).refine()


def generated_on_ranks(words: list[str]) -> int:
    try:
        cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return -1


@pytest.mark.slow
def test_ranks_share_the_videos_and_draw_what_one_draws(call: Call, run: Path, tmp_path: Path) -> None:
    words = ["generate", "--run", str(run), "--prompt", "a", "--drafts", "3", "--temperature", "1"]
    assert run_ranks(generated_on_ranks, 2, words) == [0, 0]
    assert call(*words, "--out", tmp_path / "one/x.mp4")[0] == 0
    two, one = records(run / "samples"), records(tmp_path / "one")
    assert two.keys() == one.keys()
    assert all(same(two[key], one[key]) for key in one)
    (group,) = (run / "samples").glob("*.json")
    assert len(json.loads(group.read_text())["videos"]) == 3
    assert len(list((run / "samples").glob("*.png"))) == 1


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


def test_seeds_that_draw_one_plan_are_told(call: Call, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("generate", "--run", run, "--prompt", "a red thing", "--drafts", "3", "--levels", "1")
    assert call(*words, "--temperature", "1", "--out", tmp_path / "a.mp4")[0] == 0
    assert "--temperature" not in caplog.text
    assert call(*words, "--temperature", "0", "--out", tmp_path / "b.mp4")[0] == 0
    assert "3 seeds of 'a red thing' drew only 1 " in caplog.text
