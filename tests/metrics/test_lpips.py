"""LPIPS against torchmetrics on the same random trunk; the learned heads are the released ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics.functional.image.lpips as oracle

from hitvideo.errors import ConfigError
from hitvideo.metrics.lpips import HEADS_FILE, load_lpips
from tests.samples import vgg_trunk, write_lpips_weights

HEADS = Path(oracle.__file__).parent / "lpips_models" / "vgg.pth"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_lpips_weights(tmp_path)
    (tmp_path / HEADS_FILE).write_bytes(HEADS.read_bytes())
    return tmp_path


def test_it_is_torchmetrics(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_torchvision(_net: str, pretrained: bool) -> Any:  # torchvision is not installed; these are the same layers
        return vgg_trunk()

    monkeypatch.setattr(oracle, "_get_tv_model_features", from_torchvision)
    theirs, ours = oracle._LPIPS(net="vgg", pnet_rand=True).eval(), load_lpips(weights)
    a, b = torch.rand(2, 2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = [theirs(a[clip].transpose(0, 1), b[clip].transpose(0, 1)).mean() for clip in range(2)]
    torch.testing.assert_close(ours(a, b), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert ours(a, a).eq(0).all()


def test_its_gradient_reaches_the_video_and_its_weights_stay(weights: Path) -> None:
    ours = load_lpips(weights)
    video = torch.zeros(1, 3, 1, 16, 16, requires_grad=True)
    ours(video, torch.rand(1, 3, 1, 16, 16)).sum().backward()
    assert video.grad is not None
    assert video.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_wrong_weights_are_explained(weights: Path) -> None:
    (weights / HEADS_FILE).rename(weights / "away")
    with pytest.raises(ConfigError, match=r"vgg\.pth: no such file.*vgg16-397923af\.pth"):
        load_lpips(weights)
    (weights / HEADS_FILE).write_bytes(b"not weights")
    with pytest.raises(ConfigError, match=r"vgg\.pth: .*read"):
        load_lpips(weights)
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, weights / HEADS_FILE)
    with pytest.raises(ConfigError, match=r"vgg16-397923af\.pth .*vgg\.pth "):
        load_lpips(weights)
