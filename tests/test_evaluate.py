"""Metrics against the libraries of record, and their conventions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from hitvideo.data.clips import ClipSource
from hitvideo.data.pack import write_moving_shapes
from hitvideo.data.video_shards import list_shards
from hitvideo.evaluate import CodeCounts, psnr, reconstruction, reconstruction_table, show_reconstructions, ssim
from hitvideo.sections import LimitsSection, VideoTokenizerSection
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer
from tests.samples import tiny_hierarchy


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(2, 3, 4, 32, 40, generator=generator) * 2 - 1
    return video, (video + 0.2 * torch.randn(video.shape, generator=generator)).clamp(-1, 1)


def test_psnr_is_torchmetrics_on_the_range_0_to_1() -> None:
    video, other = pair()
    for clip in range(2):
        expected = peak_signal_noise_ratio((other[clip] + 1) / 2, (video[clip] + 1) / 2, data_range=1.0)
        assert psnr(other, video)[clip].item() == pytest.approx(expected.item(), abs=1e-4)


def test_psnr_of_a_known_error() -> None:
    """An error of 0.2 on [-1, 1] is 0.1 on [0, 1]: 20 dB."""
    assert psnr(torch.zeros(1, 3, 1, 4, 4), torch.full((1, 3, 1, 4, 4), 0.2)).item() == pytest.approx(20, abs=1e-4)


def test_ssim_is_the_gaussian_convention() -> None:
    """torchmetrics handles borders otherwise (it pads, then crops), hence the tolerance."""
    video, other = pair()
    frames = [((x[0] + 1) / 2).transpose(0, 1) for x in (other, video)]
    expected = structural_similarity_index_measure(*frames, data_range=1.0, gaussian_kernel=True, sigma=1.5, kernel_size=11)
    assert ssim(other, video)[0].item() == pytest.approx(expected.item(), abs=5e-3)
    assert ssim(video, video)[0].item() == pytest.approx(1, abs=1e-5)


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
    torch.manual_seed(0)
    section = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)
    tokenizer = VideoTokenizer(section, hierarchy).eval()
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
