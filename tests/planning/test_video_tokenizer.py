"""The video tokenizer's plan against the paper and arithmetic by hand; the full-size presets run."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hitvideo.planning.flops import training_flops_per_clip
from hitvideo.planning.video_tokenizer import plan_video_tokenizer
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.video_tokenizer.model import VideoTokenizer
from tests.samples import ROOT, whole_loss

RUNS = ROOT / "yaml_configs" / "pretrain_tokenizer"


def run_of(name: str, *words: str) -> VideoTokenizerRun:
    return load_settings_as(VideoTokenizerRun, RUNS / f"{name}.yaml", words)


def test_the_paper_preset_has_the_papers_figures() -> None:
    figures = plan_video_tokenizer(run_of("paper_4level"))
    assert figures.tokens_per_clip == 3264
    assert round(24 / figures.bits_per_pixel, 1) == 1713.4
    assert 150e6 < figures.parameters < 250e6
    assert figures.parameters == figures.encoder_parameters + figures.quantizer_parameters + figures.decoder_parameters
    # Each device holds bf16 weights and fp32 gradients; 16 share fp32 masters, moments and average (ZeRO-1); plus a bucket.
    assert figures.total_gib == pytest.approx((figures.parameters * (2 + 4 + 16 / 16) + 2 * 50e6) / 2**30)


def test_flops_of_a_network_small_enough_to_count_by_hand() -> None:
    """Each position takes 2 · 9 · C · C' FLOPs in a (1, 3, 3) convolution and 2 · 3 · C · C' in a (3, 1, 1) one."""
    run = run_of("tiny", "video_tokenizer.channels=[8,8,8]", "video_tokenizer.latent_channels=4", "video_tokenizer.blocks=1")
    positions = {t: t * 8 * 8 for t in (8, 4, 2)}  # patch 4 gives 8×8 cells; time is halved twice
    block = 2 * (9 + 3) * 8 * 8
    encoder = 2 * 9 * 48 * 8 * positions[8] + block * sum(positions.values()) + 2 * 3 * 8 * 8 * (positions[4] + positions[2])
    encoder += 2 * 9 * 8 * 4 * positions[2]
    decoder = 2 * 9 * 4 * 8 * positions[2] + block * sum(positions.values()) + 2 * 8 * 16 * (positions[2] + positions[4])
    decoder += 2 * 9 * 8 * 48 * positions[8]
    cells = sum(math.prod(grid) for grid in run.hierarchy.grids(run.clip.extent))
    projections = 3 * 2 * 4 * 9 * cells  # 4 channels to 9 bits once; back twice, for the decoder and for the codebook
    entropy = 2 * 32 * 16 * cells  # the batch's joint distribution of the first 5 and the last 4 bits
    assert training_flops_per_clip(run) == 3 * (encoder + decoder + projections + entropy)


@pytest.mark.parametrize("name", ["paper_4level", "single_4x8x8", "single_8x8x8"])
def test_full_size_presets_run_forward_and_backward_without_data(name: str) -> None:
    run = run_of(name)
    with FakeTensorMode():
        video_tokenizer = VideoTokenizer(run.video_tokenizer, run.hierarchy).train()
        video = torch.empty(1, 3, *run.clip.extent)
        reconstruction = video_tokenizer(video, torch.tensor([len(run.hierarchy.levels)]))
        assert reconstruction.video.shape == video.shape
        whole_loss(reconstruction, video).backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in video_tokenizer.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper_4level", "single_4x8x8", "single_8x8x8"])
def test_full_size_presets_run_really_on_a_small_clip(name: str) -> None:
    """Run the real weights on 8 frames of one coarsest cell; the model repeats frames in front to fill the cell."""
    run = run_of(name)
    torch.manual_seed(0)
    video_tokenizer = VideoTokenizer(run.video_tokenizer, run.hierarchy).train()
    side = run.hierarchy.levels[0].down[1]
    video = torch.rand(1, 3, 8, side, side) * 2 - 1
    loss = whole_loss(video_tokenizer(video), video)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in video_tokenizer.parameters())
