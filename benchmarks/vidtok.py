"""Benchmark of encoding: our single-level 4×8×8 preset against a network of VidTok's shape.

    python -m benchmarks.vidtok

VidTok's own package is not on an index, so this is its encoder rebuilt from the paper's figures (Tang et al. 2024, arXiv
2412.13061): 128 channels × (1, 2, 4, 4), two residual blocks a stage, layer norm over channels, convolutions in space and in
time apart, causal in time, 4 × 8 × 8. Weights are random; attention in the middle, of one head at the coarsest cells, is left
out.
Both take turns in one process on the same clip. Prints frames per second, GFLOP a frame and the share of a convolution's rate.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.measuring.ceilings import convolution_rate
from hitvideo.measuring.timing import in_turn
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.video_tokenizer.model import VideoTokenizer

PRESET = Path(__file__).parents[1] / "yaml_configs/pretrain_tokenizer/single_4x8x8.yaml"
FRAMES, SIDE, ROUNDS = 5, 64, 3
CHANNELS, BLOCKS = (128, 256, 512, 512), 2


class Space(nn.Conv2d):
    """A 3 × 3 convolution of every frame: (B, C, T, H, W) → the same, or half as high and wide."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, frames = x.shape[:3]
        out = super().forward(x.transpose(1, 2).flatten(0, 1))
        return out.unflatten(0, (batch, frames)).transpose(1, 2)


class Time(nn.Conv3d):
    """A causal convolution over 3 frames: the first frame is repeated in front."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, (3, 1, 1), (stride, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat([x[:, :, :1]] * 2 + [x], 2))


class Norm(nn.LayerNorm):
    """Over the channels of each position."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Two convolutions, each after norm and SiLU, and the way around them."""

    def __init__(self, kind: type[Space] | type[Time], inputs: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([Norm(inputs), Norm(outputs)])
        self.convolutions = nn.ModuleList([kind(inputs, outputs), kind(outputs, outputs)])
        self.around = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            out = convolution(F.silu(norm(out)))
        found: torch.Tensor = self.around(x) + out
        return found


def vidtok_encoder() -> nn.Module:
    """(B, 3, T, H, W) → latents (B, 4, T / 4, H / 8, W / 8), with the first frame's cell in front."""
    layers: list[nn.Module] = [Space(3, CHANNELS[0])]
    inputs = CHANNELS[0]
    for stage, outputs in enumerate(CHANNELS):
        for _ in range(BLOCKS):
            layers += [Block(Space, inputs, outputs), Block(Time, outputs, outputs)]
            inputs = outputs
        if stage < 3:
            layers.append(Space(inputs, inputs, stride=2))
        if 0 < stage < 3:
            layers.append(Time(inputs, inputs, stride=2))
    layers += [Block(Space, inputs, inputs), Block(Time, inputs, inputs), Norm(inputs), nn.SiLU(), Space(inputs, 4)]
    return nn.Sequential(*layers)


@torch.no_grad()
def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    settings = load_settings_as(VideoTokenizerRun, PRESET)
    ours = VideoTokenizer(settings.video_tokenizer, settings.hierarchy).eval().to(device)
    peer = vidtok_encoder().eval().to(device)
    video = torch.rand(1, 3, FRAMES, SIDE, SIDE, device=device) * 2 - 1
    sides = {"ours": lambda: ours.encode(video), "VidTok's shape": lambda: peer(video)}
    flops = {}
    for name, call in sides.items():
        with FlopCounterMode(display=False) as counter:
            call()
        flops[name] = counter.get_total_flops()
    taken = in_turn(sides, device, ROUNDS)
    ceiling = convolution_rate(device, torch.float32)
    for name, seconds in taken.items():
        print(
            f"{name:15} {FRAMES / seconds:7.2f} frames/s, {flops[name] / FRAMES / 1e9:6.1f} GFLOP a frame, "
            f"{flops[name] / seconds / ceiling:.0%} of the {ceiling / 1e9:.0f} GFLOP/s of a convolution"
        )
    ratio = taken["VidTok's shape"] / taken["ours"]
    print(f"{FRAMES} frames of {SIDE}×{SIDE} on {device}: ours : VidTok's shape = {ratio:.2f}")


if __name__ == "__main__":
    main()
