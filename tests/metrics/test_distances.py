"""Metrics against reference libraries, and their conventions."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import _compute_fid

from hitvideo.metrics.distances import frechet_distance, psnr, ssim


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
    """The tolerance is for the borders, where torchmetrics pads and then crops."""
    video, other = pair()
    frames = [((x[0] + 1) / 2).transpose(0, 1) for x in (other, video)]
    expected = structural_similarity_index_measure(*frames, data_range=1.0, gaussian_kernel=True, sigma=1.5, kernel_size=11)
    assert ssim(other, video)[0].item() == pytest.approx(expected.item(), abs=5e-3)
    assert ssim(video, video)[0].item() == pytest.approx(1, abs=1e-5)


def test_ssim_of_frames_smaller_than_its_window_is_nan() -> None:
    assert ssim(torch.zeros(2, 3, 1, 8, 16), torch.zeros(2, 3, 1, 8, 16)).isnan().all()


@pytest.mark.parametrize("size", [1, 6])
def test_frechet_distance_is_torchmetrics(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(50, size, generator=generator, dtype=torch.float64)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    b = 0.5 + torch.randn(40, size, generator=generator, dtype=torch.float64) @ mixing
    moments = [moment for x in (a, b) for moment in (x.mean(0), torch.cov(x.T).reshape(size, size))]
    assert frechet_distance(a, b) == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    shifted = a + torch.tensor([3.0] + [0.0] * (size - 1))
    assert frechet_distance(a, shifted) == pytest.approx(9, rel=1e-6), "only the means differ, by 3"


def test_frechet_distance_needs_a_spread() -> None:
    with pytest.raises(ValueError, match="got 1 and 5"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
