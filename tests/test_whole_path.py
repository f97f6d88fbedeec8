"""The README's commands and its Python example, as they are there, with few steps: on moving shapes and on real clips."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hitvideo
from hitvideo.generation.generator import load_generator
from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes import scenes
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip
from hitvideo.video.encode import write_mp4
from tests.conftest import ROOT

FEW = {
    "-m pretrain.video_tokenizer": " train.steps=4 train.warmup_steps=1 data.validation_clips=8 train.validation_batches=1",
    "-m pretrain ": " train.steps=4 train.global_batch=4 train.micro_batch=2 train.warmup_steps=1 data.validation_samples=8",
}
CLIP = ClipShape(frames=8, height=32, width=32, fps=8)
NUM = 40


def block(name: str, language: str) -> str:
    """A marked code block of the README."""
    found = re.search(rf"<!-- {name}.*?```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, f"README has no block marked {name}"
    return found[1]


def run_commands(source: Path, work: Path) -> str:
    """Run the README's commands on a source of videos; returns what they printed."""
    script = re.sub(r"(?<=[ =])work/", f"{work}/", block("real-clips", "bash")).replace("\\\n", "")
    script = script.replace("SRC", str(source))
    lines = [line + next((few for part, few in FEW.items() if part in line), "") for line in script.splitlines()]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(work: Path, printed: str, videos: int) -> None:
    """Every video is accounted for, and the path ends in a video and a report."""
    manifest = json.loads((work / "tokens/manifest.json").read_text())
    assert manifest["samples_in"] == videos
    assert manifest["samples_in"] == manifest["samples_out"] + manifest["rejected"]
    assert decode_clip(work / "coffee.mp4", CLIP, LimitsSection()).std() > 1
    assert (work / "runs/tiny-llm/report.html").stat().st_size > 50_000
    assert len(json.loads(printed.strip().splitlines()[-1])["psnr_by_prefix"]) == 4


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's commands, run on a folder of moving shapes."""
    source, work = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("work")
    for key, scene, rng in scenes.scenes(NUM, 0, "1"):
        write_mp4(source / f"{key}.mp4", scenes.render(scene, CLIP, rng), CLIP.fps)
        (source / f"{key}.txt").write_text(scenes.caption(scene))
    check(work, run_commands(source, work), NUM)
    return work


@pytest.mark.slow
@pytest.mark.xdist_group("readme")
def test_the_commands_turn_a_folder_of_videos_into_a_generated_video(work: Path) -> None:
    assert (work / "runs/tiny-llm/DONE").is_file()


@pytest.mark.slow
@pytest.mark.xdist_group("readme")
def test_the_python_example(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(work)
    names: dict[str, object] = {}
    exec(block("python-example", "python").replace("mug.mp4", "coffee.mp4"), names)
    assert capsys.readouterr().out.startswith("(1, 2, 2)\n"), "level 0 of a clip of 8×32×32 pixels"
    assert decode_clip(work / "story.mp4", CLIP, LimitsSection()).shape == (8, 32, 32, 3)
    codes, coarse = names["codes"], names["coarse"]
    assert [level.shape for level in codes] == [(1, 2, 2), (1, 4, 4), (2, 4, 4), (2, 8, 8)]  # type: ignore[attr-defined]
    assert coarse.frames.shape == (8, 32, 32, 3)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.xdist_group("readme")
def test_generation_needs_neither_the_tokens_nor_their_folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "tokens").rename(work / "elsewhere")
    monkeypatch.chdir(work / "runs")
    try:
        (video,) = hitvideo.load_run("tiny-llm").generate(["a red circle"], levels=2)
    finally:
        (work / "elsewhere").rename(work / "tokens")
    assert [level.shape for level in video.codes] == [(1, 2, 2), (1, 4, 4)]
    with pytest.raises(hitvideo.HiTVideoError, match="--video-tokenizer"):
        load_generator("tiny-llm", torch.device("cpu"), work / "absent")


@pytest.mark.slow
@pytest.mark.xdist_group("readme")
def test_captions_are_evaluated(work: Path) -> None:
    """`evaluate captions` on a run that has learnt nothing: its scores are there, with what chance gives."""
    command = [str(Path(sys.executable).with_name("hitvideo")), "evaluate", "captions", "--num", "2"]
    done = subprocess.run([*command, "--run", str(work / "runs/tiny-llm")], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["videos"] == 2
    assert set(figures["caption_accuracy"]) == set(figures["chance"])
    assert len(list((work / "runs/tiny-llm/samples").glob("guidance-*.json"))) == 3


@pytest.mark.slow
def test_the_commands_on_real_clips(clips: Path, tmp_path: Path) -> None:
    check(tmp_path, run_commands(clips / "MANIFEST.tsv", tmp_path), 105)
