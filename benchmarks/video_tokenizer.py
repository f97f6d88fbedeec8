"""Benchmark of encoding and decoding: our single-level 4×8×8 preset against diffusers' AutoencoderKLCosmos.

    python -m benchmarks.video_tokenizer

Both have random weights and the same compression in time and space, and are timed in turn in one process on the same clip. Our
time includes quantising. Prints frames per second, FLOPs per pixel, the share of a convolution's rate that our encoder reaches,
how much the norm of a position speeds ours up compared with the norm of a frame, and, where the processor has bf16, how much
that does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCosmos
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.measuring.timing import in_turn
from hitvideo.ops.precision import has_bf16
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.video_tokenizer.model import VideoTokenizer

PRESET = Path(__file__).parents[1] / "yaml_configs/pretrain_tokenizer/single_4x8x8.yaml"
FRAMES, SIDE, ROUNDS = 9, 128, 3


def ours(device: torch.device, *words: str) -> VideoTokenizer:
    settings = load_settings_as(VideoTokenizerRun, PRESET, words)
    return VideoTokenizer(settings.video_tokenizer, settings.hierarchy).eval().to(device)


def cosmos(device: torch.device) -> AutoencoderKLCosmos:
    """diffusers' default network: Haar patches of 4, then a factor of 2 in space; 4 in time in all."""
    model = AutoencoderKLCosmos(temporal_compression_ratio=4, spatial_compression_ratio=8, latents_mean=None, latents_std=None)
    return model.eval().to(device)


def flops(call: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def trained(model: VideoTokenizer, video: torch.Tensor) -> Callable[[], object]:
    """Forward and backward of the squared error."""

    def step() -> None:
        with torch.enable_grad():
            (model(video).video - video).square().mean().backward()

    return step


def convolution(device: torch.device) -> Callable[[], object]:
    """A 3×3 convolution like those of our widest frames, channels last in memory: what the encoder could reach at best."""
    frames = torch.rand(FRAMES, 192, SIDE // 4, SIDE // 4, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(192, 192, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(frames, weight, padding=1)


@torch.no_grad()
def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    video_tokenizer, peer = ours(device), cosmos(device)
    video = torch.rand(1, 3, FRAMES, SIDE, SIDE, device=device) * 2 - 1
    codes, latents = video_tokenizer.encode(video), peer.encode(video).latent_dist.mode()
    millions = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (video_tokenizer, peer)]
    print(f"{FRAMES} frames of {SIDE}×{SIDE} on {device}; parameters: ours {millions[0]:.1f} M, Cosmos {millions[1]:.1f} M")
    encoding = in_turn({"ours": lambda: video_tokenizer.encode(video), "cosmos": lambda: peer.encode(video)}, device, ROUNDS)
    decoders = {"ours": lambda: video_tokenizer.decode(codes, FRAMES), "cosmos": lambda: peer.decode(latents)}
    decoding = in_turn(decoders, device, ROUNDS)
    for name, taken in (("encode", encoding), ("decode", decoding)):
        rates = {side: FRAMES / value for side, value in taken.items()}
        ratio = rates["ours"] / rates["cosmos"]
        print(f"{name}: ours {rates['ours']:.2f} frames/s, Cosmos {rates['cosmos']:.2f} frames/s, ratio {ratio:.2f}")

    work = {"ours": flops(lambda: video_tokenizer.encode(video)), "cosmos": flops(lambda: peer.encode(video))}
    pixels = FRAMES * SIDE**2
    print(f"encode, kFLOP per pixel: ours {work['ours'] / pixels / 1e3:.0f}, Cosmos {work['cosmos'] / pixels / 1e3:.0f}")
    convolve = convolution(device)
    turns = in_turn({"encode": lambda: video_tokenizer.encode(video), "ceiling": convolve}, device, ROUNDS)
    rates = {"encode": work["ours"] / turns["encode"], "ceiling": flops(convolve) / turns["ceiling"]}
    print(f"encode: {rates['encode'] / rates['ceiling']:.0%} of a 3×3 convolution's {rates['ceiling'] / 1e9:.0f} GFLOP/s")
    norms = {norm: ours(device, f"video_tokenizer.norm={norm}") for norm in ("frame", "layer")}
    encoding = in_turn({norm: partial(model.encode, video) for norm, model in norms.items()}, device, ROUNDS)
    steps = in_turn({norm: trained(model.train(), video) for norm, model in norms.items()}, device, ROUNDS)
    for name, taken in (("encode", encoding), ("forward and backward", steps)):
        print(f"{name}: the norm of a position is {taken['frame'] / taken['layer']:.2f} times as fast as that of a frame")
    if has_bf16(device):
        half = ours(device).bfloat16()
        types = in_turn({"fp32": lambda: video_tokenizer.encode(video), "bf16": lambda: half.encode(video)}, device, ROUNDS)
        print(f"encode in bf16: {types['fp32'] / types['bf16']:.2f} times as fast as in fp32")


if __name__ == "__main__":
    main()
