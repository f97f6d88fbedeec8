"""Meaning by prefix of levels: against direct computation, and on codes that hold a known attribute."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from hitvideo.commands.evaluation import evaluate_meaning
from hitvideo.errors import ConfigError
from hitvideo.evaluation.linear_probe import classify
from hitvideo.evaluation.meaning import ORIGINALS, UNQUANTISED, features_by_prefix, meaning, meaning_table, rendered
from hitvideo.metrics.distances import psnr
from hitvideo.metrics.intervals import share
from hitvideo.moving_shapes.probe import read
from hitvideo.moving_shapes.scoring import shares
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video.pixels import to_uint8, to_unit
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from tests.samples import tiny_hierarchy

HIERARCHY, CLIP = tiny_hierarchy()


@pytest.fixture(scope="module")
def video_tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)
    section = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)
    return VideoTokenizer(section, HIERARCHY).eval()


def test_every_row_is_what_decoding_that_prefix_gives(video_tokenizer: VideoTokenizer) -> None:
    clips = list(rendered(20, 2, CLIP))
    figures = meaning(video_tokenizer, clips)
    truth = [scene for _, scene in clips]
    video = torch.stack([torch.from_numpy(to_unit(frames)) for frames, _ in clips])
    codes = video_tokenizer.encode(video)
    assert [row["levels"] for row in figures["rows"]] == [1, 2, 3, 4, UNQUANTISED, ORIGINALS]
    for k, row in enumerate(figures["rows"][:4]):
        shown = video_tokenizer.decode(codes[: k + 1], CLIP.frames)
        assert row["psnr"] == pytest.approx(psnr(shown, video).mean().item(), abs=1e-3)
        assert row["pixels"] == shares(truth, [read(to_uint8(each)) for each in shown.numpy()])
        assert row["codes_used"] == len(codes[k].unique())
    assert [row["tokens"] for row in figures["rows"][:4]] == [4, 20, 52, 180]
    assert figures["rows"][3]["bits"] == 180 * 9
    with torch.no_grad():
        whole = video_tokenizer(video, torch.zeros(20, dtype=torch.long)).video.clamp(-1, 1)
    assert figures["rows"][4]["psnr"] == pytest.approx(psnr(whole, video).mean().item(), abs=1e-3)
    assert figures["rows"][5]["pixels"]["all_right"]["rate"] > 0.9, "the probe reads the true clips"
    assert (figures["clips"], figures["fitted_clips"], figures["linear_clips"]) == (20, 10, 10)
    assert UNQUANTISED in meaning_table(figures)
    with pytest.raises(ConfigError, match="3 clips are too few"):
        meaning(video_tokenizer, clips[:3])


def test_features_are_the_signs_of_the_levels(video_tokenizer: VideoTokenizer) -> None:
    clips = list(rendered(17, 2, CLIP))  # one more than a batch
    features = features_by_prefix(video_tokenizer, clips, None)
    assert [part.shape for part in features] == [(17, 9 * cells) for cells in (4, 20, 52, 180)] + [(17, 6 * 128)]
    assert all(part.abs().eq(1).all() for part in features[:4])
    assert torch.equal(features[3][:, : 9 * 20], features[1])


def test_the_linear_probe_is_fitted_to_other_clips(video_tokenizer: VideoTokenizer) -> None:
    clips = list(rendered(40, 2, CLIP))
    known, asked = clips[10:], clips[:10]
    figures = meaning(video_tokenizer, asked, known)
    assert (figures["clips"], figures["fitted_clips"], figures["linear_clips"]) == (10, 30, 10)
    learn, test = (features_by_prefix(video_tokenizer, part, None) for part in (known, asked))
    for row, fitted, measured in zip(figures["rows"], learn, test, strict=False):
        guessed = classify(fitted, [scene.background for _, scene in known], measured)
        right = sum(guess == scene.background for guess, (_, scene) in zip(guessed, asked, strict=True))
        assert row["linear"]["background"] == share(right, 10)
    assert "linear" not in figures["rows"][-1], "the clips themselves have no codes"


def test_the_command_keeps_its_figures(
    video_tokenizer: VideoTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_video_tokenizer(video_tokenizer, tmp_path / "weights", CLIP)
    evaluate_meaning(argparse.Namespace(run=tmp_path, num=4, seed=3, json=True))
    figures = json.loads(capsys.readouterr().out)
    assert (figures["clips"], figures["fitted_clips"], figures["seed"]) == (4, 16, 3)
    kept = json.loads((tmp_path / "evaluation/meaning.json").read_text())
    assert "codes used" in kept.pop("table")
    assert kept == figures
    with pytest.raises(ConfigError, match="--num 3"):
        evaluate_meaning(argparse.Namespace(run=tmp_path, num=3, seed=3, json=True))
