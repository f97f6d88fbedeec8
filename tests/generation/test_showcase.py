"""The run that ships with the package: it is small, draws what its prompts say, and is found from any folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hitvideo.commands.cli import main
from hitvideo.evaluation.meaning import rendered
from hitvideo.generation import engine, plans
from hitvideo.generation.engine import Request
from hitvideo.generation.generator import load_generator
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.decoding import can_decode
from hitvideo.moving_shapes import probe, scoring
from hitvideo.moving_shapes.scenes import caption
from hitvideo.runs.directory import SHOWCASE

MOST_BYTES = 12_000_000


def test_it_is_small_and_says_what_it_is() -> None:
    files = [path for path in SHOWCASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert "| level | cell" in (SHOWCASE / "README.md").read_text()


def test_its_videos_show_their_prompts() -> None:
    """Of 32 prompts it draws 9 in 10 in the right colour and as many in the right motion; half as many would be luck."""
    generator = load_generator("showcase", torch.device("cpu"))
    truth = [scene for _, scene in rendered(32, 11, generator.clip, "1", 0.0, "all")]
    codes = generator.codes([caption(scene) for scene in truth], Sampling(), seed=4)
    storyboard, whole = (
        scoring.accuracy(truth, [probe.read(video) for video in generator.decode(some)]) for some in (codes[:1], codes)
    )
    assert min(whole["colour"], whole["motion"]) > 0.75, whole
    assert min(storyboard["colour"], storyboard["motion"]) > 0.6, storyboard


def test_the_decoder_draws_the_codes_of_the_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 prompts, every plan: it does not show whether passes are the decoder's or `LanguageModel.hidden`'s."""
    generator = load_generator("showcase", torch.device("cpu"))
    scenes = [scene for _, scene in rendered(16, 5, generator.clip, "1", 0.0, "all")]
    requests = [Request(caption(scene), seed) for seed, scene in enumerate(scenes)]
    assert can_decode(generator.model)
    with monkeypatch.context() as without:
        without.setattr(engine, "can_decode", lambda model: False)
        expected = engine.draw(generator.model, generator.text, requests, Sampling(plan="sequential")).codes
    for plan in plans.offered(generator.model.layout):
        codes = engine.draw(generator.model, generator.text, requests, Sampling(plan=plan)).codes
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(codes, expected, strict=True)), plan


def test_the_command_finds_it_and_leaves_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in SHOWCASE.rglob("*")}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["generate", "--run", "showcase", "--prompt", "a red circle moves right on a black background"])
    assert left.value.code == 0
    assert len(list((tmp_path / "showcase/samples").glob("*.mp4"))) == 1
    assert {path: path.stat().st_mtime_ns for path in SHOWCASE.rglob("*")} == before
