"""Reconstruction by prefix of levels: every figure against its definition."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hitvideo import config
from hitvideo.commands.evaluation import evaluate_reconstruction
from hitvideo.data.clips import ClipSource
from hitvideo.data.pack import write_moving_shapes
from hitvideo.data.remote import Shard
from hitvideo.data.video_shards import VideoSample, list_shards, write_shards
from hitvideo.errors import ConfigError
from hitvideo.evaluation.reconstruction import (
    FVD_CLIPS,
    MetricNetworks,
    choose_clips,
    reconstruction,
    reconstruction_table,
    rfvd_name,
    show_reconstructions,
    training_clips,
)
from hitvideo.hierarchy import Hierarchy
from hitvideo.metrics.code_use import CodeCounts
from hitvideo.metrics.distances import frechet_distance, psnr
from hitvideo.metrics.i3d import I3D
from hitvideo.metrics.lpips import load_lpips
from hitvideo.runs.directory import RunDirectory
from hitvideo.settings.data import LimitsSection
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video.encode import encode_mp4
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from tests.conftest import ROOT
from tests.samples import tiny_hierarchy, write_lpips_weights


def untrained(hierarchy: Hierarchy) -> VideoTokenizer:
    torch.manual_seed(0)
    section = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)
    return VideoTokenizer(section, hierarchy).eval()


def test_code_counts() -> None:
    counts = CodeCounts(3)
    counts.add(torch.tensor([[0b000, 0b001], [0b011, 0b001]]))
    counts.add(torch.tensor([0b001, 0b011]))
    assert counts.used == 3
    assert counts.balance.tolist() == pytest.approx([1 / 6, 1 / 3, 0.0])


def test_reconstruction_by_prefix_and_h264_beside(tmp_path: Path) -> None:
    """An untrained tokenizer on real encoded clips: every figure is there, and checked where it can be known."""
    hierarchy, clip = tiny_hierarchy()
    write_moving_shapes(tmp_path / "shards", 6, seed=0, clip=clip, objects="1", per_shard=6)
    source = ClipSource(list_shards(str(tmp_path / "shards")), clip, LimitsSection())
    tokenizer = untrained(hierarchy)
    figures = reconstruction(tokenizer, source, range(6))
    codes = [tokenizer.encode(source.tensor(index, 0)[None]) for index in range(6)]
    for k in range(4):
        expected = [psnr(tokenizer.decode(c[: k + 1], 8), source.tensor(i, 0)[None]).item() for i, c in enumerate(codes)]
        assert figures["psnr_by_prefix"][k] == pytest.approx(sum(expected) / 6, abs=1e-3)
        assert figures["codes_used"][k] == len(torch.cat([c[k].flatten() for c in codes]).unique())
    assert figures["bpp_by_prefix"][-1] == pytest.approx(hierarchy.bits_per_pixel, abs=1e-6)
    assert figures["h264"]["bpp"] <= hierarchy.bits_per_pixel, "the reference must not take more bits"
    assert figures["h264"]["psnr"] > max(figures["psnr_by_prefix"]), "H.264 beats an untrained tokenizer"
    table = reconstruction_table(figures).splitlines()
    assert len(table) == 1 + 4 + 1
    assert "H.264" in table[-1]
    assert len({len(line) for line in table}) == 1
    show_reconstructions(tokenizer, source, range(2), tmp_path)
    assert (tmp_path / "samples/reconstruction.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_lpips_and_rfvd_stand_beside_where_their_networks_are_given(tmp_path: Path) -> None:
    hierarchy, clip = tiny_hierarchy()
    clip = clip.model_copy(update={"frames": 9})
    write_moving_shapes(tmp_path / "shards", 2, seed=0, clip=clip, objects="1", per_shard=2)
    write_lpips_weights(tmp_path / "lpips")
    source = ClipSource(list_shards(str(tmp_path / "shards")), clip, LimitsSection())
    tokenizer = untrained(hierarchy)
    lpips, i3d = load_lpips(tmp_path / "lpips"), I3D().eval()
    figures = reconstruction(tokenizer, source, range(2), networks=MetricNetworks(lpips, i3d))
    videos = [source.tensor(index, 0)[None] for index in range(2)]
    whole = [tokenizer.decode(tokenizer.encode(video), 9) for video in videos]
    with torch.no_grad():
        expected = torch.cat([lpips(*each) for each in zip(whole, videos, strict=True)]).mean().item()
        features = [torch.cat([i3d(video) for video in each]) for each in (whole, videos)]
    assert figures["lpips_by_prefix"][-1] == pytest.approx(expected, abs=1e-3)
    assert figures["rfvd_n2_by_prefix"][-1] == pytest.approx(frechet_distance(*features), abs=1e-2)
    assert "LPIPS" in reconstruction_table(figures).splitlines()[0]


def test_psnr_by_motion_splits_the_clips(tmp_path: Path) -> None:
    """Three still and three moving things: `slow` is the mean over the still ones."""
    hierarchy, clip = tiny_hierarchy()
    write_moving_shapes(tmp_path / "shards", 12, seed=3, clip=clip, objects="1", per_shard=12)
    source = ClipSource(list_shards(str(tmp_path / "shards")), clip, LimitsSection())
    change = [float(source.tensor(index, 0).diff(dim=1).abs().mean()) for index in range(12)]
    order = sorted(range(12), key=change.__getitem__)
    tokenizer = untrained(hierarchy)
    both = reconstruction(tokenizer, source, range(12))["psnr_by_motion"]
    for name, half in (("slow", order[:6]), ("fast", order[6:])):
        assert both[name] == pytest.approx(reconstruction(tokenizer, source, half)["psnr_by_prefix"], abs=2e-4)


def test_a_damaged_clip_is_left_out_and_counted(tmp_path: Path) -> None:
    hierarchy, clip = tiny_hierarchy()
    good = encode_mp4(np.zeros((8, 32, 32, 3), np.uint8), 8)
    samples = [VideoSample(key, video, "mp4", {"caption": "x"}) for key, video in (("a", good), ("b", good[:60]))]
    write_shards(samples, tmp_path / "shards", 2)
    source = ClipSource(list_shards(str(tmp_path / "shards")), clip, LimitsSection())
    tokenizer = untrained(hierarchy)
    figures = reconstruction(tokenizer, source, range(2))
    assert (figures["clips"], figures["skipped"]) == (1, 1)
    assert "000000.tar: b" in figures["left_out"][0]
    with pytest.raises(ConfigError, match="none of the 1 clips can be decoded"):
        reconstruction(tokenizer, source, [1])


def words(run: Path, shards: Path, **more: object) -> argparse.Namespace:
    known = {"run": run, "video_shards": str(shards), "videos": None, "lpips_weights": None, "fvd_weights": None}
    return argparse.Namespace(**{**known, "clips": None, "include_training": False, "json": True, **more})


def trained_run(path: Path, shards: Path, validation_clips: int) -> Path:
    """A run that has weights, and a config that names the shards it was trained on."""
    hierarchy, clip = tiny_hierarchy()
    save_video_tokenizer(untrained(hierarchy), path / "weights", clip)
    settings = config.resolve(ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml")
    settings["data"] |= {"video_shards": str(shards), "validation_clips": validation_clips}
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("bad", [[0], [1, 2], [0, 1, 2, 3, 4]])
def test_undecodable_clips_do_not_cost_an_evaluation_its_figures(
    tmp_path: Path, bad: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    good = encode_mp4(np.zeros((8, 32, 32, 3), np.uint8), 8)
    write_shards(
        [VideoSample(f"{k}", b"junk" if k in bad else good, "mp4", {"caption": "x"}) for k in range(6)], tmp_path / "s", 6
    )
    run = trained_run(tmp_path / "run", tmp_path / "s", 2)
    evaluate_reconstruction(words(run, tmp_path / "s", clips=6, include_training=True))
    figures = json.loads(capsys.readouterr().out)
    assert (figures["clips"], figures["skipped"]) == (6 - len(bad), len(bad))
    assert figures["training_clips"] == 4
    assert json.loads((run / "evaluation/reconstruction.json").read_text()) == figures
    assert len(list((run / "samples").glob("reconstruction-*.json"))) == min(4, 6 - len(bad))


def test_figures_are_saved_before_anything_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_moving_shapes(tmp_path / "s", 2, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=2)
    run = trained_run(tmp_path / "run", tmp_path / "elsewhere", 2)
    (run / "samples").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="samples"):
        evaluate_reconstruction(words(run, tmp_path / "s"))
    assert (run / "evaluation/reconstruction.json").is_file()


@pytest.mark.parametrize("clips", [0, -5])
def test_fewer_than_one_clip_is_refused(tmp_path: Path, clips: int) -> None:
    with pytest.raises(ConfigError, match=f"--clips {clips}"):
        evaluate_reconstruction(words(tmp_path / "run", tmp_path / "s", clips=clips))


def run_on_a(tmp_path: Path) -> tuple[VideoTokenizerRun, list[Shard], list[Shard]]:
    """A run trained on 8 of the 12 clips in a/, its shards, and those of b/."""
    for folder in ("a", "b"):
        write_moving_shapes(tmp_path / folder, 12, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=6)
    settings = RunDirectory(trained_run(tmp_path / "run", tmp_path / "a", 4)).settings_as(VideoTokenizerRun)
    return settings, list_shards(str(tmp_path / "a")), list_shards(str(tmp_path / "b"))


def test_it_is_known_which_measured_clips_were_trained_on(tmp_path: Path) -> None:
    settings, own, other = run_on_a(tmp_path)
    assert training_clips(range(12), own, 12, settings) == 8
    assert training_clips(range(6, 12), own, 12, settings) == 2
    assert training_clips(range(8, 12), own, 12, settings) == 0
    assert training_clips(range(12), other, 12, settings) == 0
    assert training_clips(range(6), own[:1], 6, settings) is None
    (tmp_path / "a").rename(tmp_path / "moved")
    assert training_clips(range(12), other, 12, settings) is None


def test_held_out_clips_are_measured_and_clips_of_training_refused(tmp_path: Path) -> None:
    settings, own, other = run_on_a(tmp_path)
    assert choose_clips(None, False, own, 12, settings) == (range(8, 12), 0)
    assert choose_clips(2, False, own, 12, settings) == (range(10, 12), 0)
    assert choose_clips(6, True, own, 12, settings) == (range(6, 12), 2)
    with pytest.raises(ConfigError, match=r"^2 of the last 6 clips .* held out 4 .*--clips 4 .*--include-training"):
        choose_clips(6, False, own, 12, settings)
    assert choose_clips(6, False, other, 12, settings) == (range(6, 12), 0)
    assert choose_clips(None, False, other, 12, settings) == (range(8, 12), 0)
    assert choose_clips(None, False, other, 100, None) == (range(36, 100), None)
    with pytest.raises(ConfigError, match=r"all 1 clips .*--include-training"):  # of a single clip none can be held out
        choose_clips(None, False, own, 1, settings)


def test_the_command_measures_what_was_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_moving_shapes(tmp_path / "s", 6, seed=0, clip=tiny_hierarchy()[1], objects="1", per_shard=6)
    run = trained_run(tmp_path / "run", tmp_path / "s", 2)
    evaluate_reconstruction(words(run, tmp_path / "s"))
    figures = json.loads(capsys.readouterr().out)
    assert (figures["clips"], figures["training_clips"]) == (2, 0)
    with pytest.raises(ConfigError, match="--include-training"):
        evaluate_reconstruction(words(run, tmp_path / "s", clips=3))


def test_an_fvd_of_few_clips_bears_their_number() -> None:
    assert rfvd_name(FVD_CLIPS) == "rfvd"
    assert rfvd_name(FVD_CLIPS - 1) == "rfvd_n2047"
