"""LPIPS, the distance between two videos' frames in the features of a VGG-16 (Zhang et al. 2018, version 0.1).

    features of 5 layers, normalised to unit length over the channels → squared difference → one learned weight per channel
    → mean over the frame → sum over the layers

Nothing is downloaded: you provide a folder with two files of the public releases,

    vgg16-397923af.pth    torchvision's VGG-16 (only its `features`)
    vgg.pth               lpips' linear heads: lpips/weights/v0.1/vgg.pth of the `lpips` package on PyPI
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hitvideo.errors import ConfigError

TRUNK_FILE, HEADS_FILE = "vgg16-397923af.pth", "vgg.pth"
_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_EPSILON = 1e-10


class LPIPS(nn.Module):
    """Two (B, 3, T, H, W) in [-1, 1] → each clip's distance, the mean over its frames, (B,). All weights are frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        # ImageNet's mean and standard deviation for inputs in [-1, 1], as in version 0.1.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.convolutions: list[nn.Conv2d] = []
        before, slices = 3, []
        for number, widths in enumerate(_WIDTHS):
            body: list[nn.Module] = [nn.MaxPool2d(2)] if number else []
            for width in widths:
                self.convolutions.append(nn.Conv2d(before, width, 3, padding=1))
                body += [self.convolutions[-1], nn.ReLU()]
                before = width
            slices.append(nn.Sequential(*body))
        self.slices = nn.ModuleList(slices)
        self.heads = nn.ParameterList(torch.zeros(widths[-1]) for widths in _WIDTHS)
        self.requires_grad_(False)

    def forward(self, video: Tensor, target: Tensor) -> Tensor:
        features, fixed = self._scaled(video), self._scaled(target.detach())
        distance = torch.zeros(len(features), device=features.device)  # (B·T,)
        for part, head in zip(self.slices, self.heads, strict=True):
            features, fixed = part(features), part(fixed)  # (B·T, C, h, w); the target's is not kept for the backward pass
            difference = (_unit(features) - _unit(fixed)).square()
            distance = distance + (difference * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return distance.view(len(video), -1).mean(1)

    def _scaled(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) → frames (B·T, 3, H, W) with the statistics that the trunk was trained on."""
        return (video.float().transpose(1, 2).flatten(0, 1) - self.shift) / self.scale


def some_frames(video: Tensor, count: int, start: float) -> Tensor:
    """(B, 3, T, H, W) → at most `count` of its frames, evenly spread; `start` in [0, 1) moves them along.

    Over all values of `start` every frame is taken equally often.
    """
    frames = video.shape[2]
    return video[:, :, [int((number + start) * frames / count) for number in range(count)]] if count < frames else video


def _unit(features: Tensor) -> Tensor:
    norm: Tensor = features.norm(dim=1, keepdim=True)
    return features / (norm + _EPSILON)


def load_lpips(directory: Path, device: torch.device | str = "cpu") -> LPIPS:
    """LPIPS with the weights in `directory`. Raises ConfigError if a file is missing or not the one named above."""
    trunk, heads = (_read(directory / name) for name in (TRUNK_FILE, HEADS_FILE))
    model = LPIPS()
    numbers = sorted({int(name.split(".")[1]) for name in trunk if name.startswith("features.")})
    try:
        for layer, number in zip(model.convolutions, numbers, strict=True):
            layer.load_state_dict({kind: trunk[f"features.{number}.{kind}"] for kind in ("weight", "bias")})
        for number, head in enumerate(model.heads):
            head.copy_(heads[f"lin{number}.model.1.weight"].flatten())
    except (KeyError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{directory}: {TRUNK_FILE} is not VGG-16 or {HEADS_FILE} is not LPIPS v0.1: {error}") from error
    return model.to(device).eval()


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; LPIPS needs {TRUNK_FILE} and {HEADS_FILE} in one folder") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, struct.error) as error:
        raise ConfigError(f"{path}: cannot be read as weights: {error}") from error
    return content
