"""I3D (Carreira & Zisserman 2017), whose Kinetics-400 logits are the features of the Fréchet video distance (FVD).

An inflated Inception-v1 with the parameter names of the public PyTorch weights, which you provide; nothing is downloaded.
Padding is TensorFlow's SAME: an odd zero goes behind. FVD is defined by the weights on TF-Hub (deepmind/i3d-kinetics-400):

    i3d_pretrained_400.pt     TF-Hub's weights as a dictionary of tensors: give this one
    i3d_torchscript.pt        the same weights inside a program. Refused: only tensors are read from a file, never code
    rgb_imagenet.pt           another training of the network. Refused by its distances, which are not those of FVD

`check_golden` tells them apart: 8 black videos of 30 frames are 151.26 from 8 white ones in every implementation of FVD.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hitvideo.errors import ConfigError

WANTED = "i3d_pretrained_400.pt, TF-Hub's weights as a dictionary of tensors (VideoGPT converts and publishes it)"
CLASSES = 400
SIDE = 224
GOLDEN, GOLDEN_ERROR = 151.26, 1.0
"""Distance of black from white videos, 30 frames of 64×64, with TF-Hub's weights (google-research/frechet_video_distance,
StyleGAN-V and common_metrics_on_video_quality give 151.3 to 151.4)."""
FEWEST_FRAMES = 9  # with fewer, one frame is left for the last pooling, which needs two
_Triple = tuple[int, int, int]

_MIXED = {  # name: (inputs, outputs of the branches 0, 1a, 1b, 2a, 2b, 3b)
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def _same(features: Tensor, kernel: _Triple, stride: _Triple) -> Tensor:
    """Zero-pad (B, C, t, h, w) so that the layer's output has ⌈size / stride⌉ entries along every axis."""
    pads: list[int] = []
    for size, k, s in zip(reversed(features.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(features, pads)


class _Pool(nn.Module):
    def __init__(self, kernel: _Triple, stride: _Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Tensor) -> Tensor:  # inputs come from a ReLU, so zero padding changes no maximum
        return F.max_pool3d(_same(features, self.kernel, self.stride), self.kernel, self.stride)


class _Unit(nn.Module):
    def __init__(self, before: int, after: int, kernel: _Triple = (1, 1, 1), stride: _Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(after, eps=0.001)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(_same(features, self.kernel, self.stride))))


class _Mixed(nn.Module):
    def __init__(self, before: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = _Unit(before, b0)
        self.b1a, self.b1b = _Unit(before, b1a), _Unit(b1a, b1b, (3, 3, 3))
        self.b2a, self.b2b = _Unit(before, b2a), _Unit(b2a, b2b, (3, 3, 3))
        self.b3a, self.b3b = _Pool((3, 3, 3), (1, 1, 1)), _Unit(before, b3b)

    def forward(self, features: Tensor) -> Tensor:
        branches = self.b0(features), self.b1b(self.b1a(features)), self.b2b(self.b2a(features)), self.b3b(self.b3a(features))
        return torch.cat(branches, dim=1)


class _Logits(nn.Module):
    def __init__(self, before: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(before, CLASSES, 1)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.conv3d(features))


class I3D(nn.Module):
    """(B, 3, T, H, W) in [-1, 1], T at least 9 → logits (B, 400), averaged over time. Frames are resized to 224×224."""

    def __init__(self) -> None:
        super().__init__()
        halve = (2, 2, 2)
        self.Conv3d_1a_7x7 = _Unit(3, 64, (7, 7, 7), halve)
        self.MaxPool3d_2a_3x3 = _Pool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = _Unit(64, 64)
        self.Conv3d_2c_3x3 = _Unit(64, 192, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = _Pool((1, 3, 3), (1, 2, 2))
        for name, (before, widths) in _MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = _Pool((3, 3, 3), halve)
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = _Pool(halve, halve)
            self.add_module(name, _Mixed(before, widths))
        self.logits = _Logits(1024)

    def forward(self, video: Tensor) -> Tensor:
        batch, _, length, *_ = video.shape
        if length < FEWEST_FRAMES:
            raise ConfigError(f"FVD needs clips of at least {FEWEST_FRAMES} frames, but these have {length}")
        frames = F.interpolate(video.float().transpose(1, 2).flatten(0, 1), (SIDE, SIDE), mode="bilinear")
        features = frames.view(batch, length, 3, SIDE, SIDE).transpose(1, 2)
        for name, module in self.named_children():
            if name == "logits":
                features = F.avg_pool3d(features, (2, 7, 7), stride=1)
            features = module(features)
        return features.mean((2, 3, 4))


@torch.no_grad()
def golden_distance(model: I3D) -> float:
    """The Fréchet distance of black from white videos. All videos of a set are equal, so it is that of their features."""
    device = next(model.parameters()).device
    black, white = (model(torch.full((1, 3, 30, 64, 64), value, device=device)) for value in (-1.0, 1.0))
    return float((black.double() - white.double()).square().sum())


def check_golden(model: I3D, path: Path) -> float:
    """The golden distance. Raises ConfigError if it is not that of TF-Hub's weights."""
    found = golden_distance(model)
    if not abs(found - GOLDEN) <= GOLDEN_ERROR:
        raise ConfigError(
            f"{path}: black videos are {found:.2f} from white ones, with the weights that define FVD they are {GOLDEN}; "
            f"give {WANTED}"
        )
    return found


def load_i3d(path: Path, device: torch.device | str = "cpu") -> I3D:
    """I3D with the weights in `path`. Raises ConfigError if they are missing or belong to another network."""
    model = I3D()
    if _is_program(path):
        raise ConfigError(f"{path}: a TorchScript program, which is code and is not run; give {WANTED}")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; FVD needs I3D's weights: {WANTED}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, TypeError, LookupError, ValueError, struct.error) as error:
        raise ConfigError(f"{path}: cannot be read as I3D weights: {str(error)[:300]}") from error
    return model.to(device).eval()


def _is_program(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, which torch.load would run."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
