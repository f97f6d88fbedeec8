"""Benchmark of encoding and decoding: our single-level 4×8×8 preset against diffusers' AutoencoderKLCosmos.

    python -m benchmarks.video_tokenizer

Both have random weights and the same compression in time and space, and are timed in turn in one process on the same clip. Our
time includes quantising. Prints frames per second, and how much bf16 and channels last in memory speed ours up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLCosmos

from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.video_tokenizer.model import VideoTokenizer

PRESET = Path(__file__).parents[1] / "yaml_configs/pretrain_tokenizer/single_4x8x8.yaml"
FRAMES, SIDE, ROUNDS = 9, 128, 3


def ours(device: torch.device) -> VideoTokenizer:
    settings = load_settings_as(VideoTokenizerRun, PRESET)
    return VideoTokenizer(settings.video_tokenizer, settings.hierarchy).eval().to(device)


def cosmos(device: torch.device) -> AutoencoderKLCosmos:
    """diffusers' default network: Haar patches of 4, then a factor of 2 in space; 4 in time in all."""
    model = AutoencoderKLCosmos(temporal_compression_ratio=4, spatial_compression_ratio=8, latents_mean=None, latents_std=None)
    return model.eval().to(device)


def seconds(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turn(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each side; the first round is a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, call in sides.items():
            elapsed = seconds(call)
            if number:
                taken[name].append(elapsed)
    return {name: statistics.median(times) for name, times in taken.items()}


@torch.no_grad()
def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    video_tokenizer, peer = ours(device), cosmos(device)
    video = torch.rand(1, 3, FRAMES, SIDE, SIDE, device=device) * 2 - 1
    codes, latents = video_tokenizer.encode(video), peer.encode(video).latent_dist.mode()
    millions = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (video_tokenizer, peer)]
    print(f"{FRAMES} frames of {SIDE}×{SIDE} on {device}; parameters: ours {millions[0]:.1f} M, Cosmos {millions[1]:.1f} M")
    encoding = in_turn({"ours": lambda: video_tokenizer.encode(video), "cosmos": lambda: peer.encode(video)})
    decoding = in_turn({"ours": lambda: video_tokenizer.decode(codes, FRAMES), "cosmos": lambda: peer.decode(latents)})
    for name, taken in (("encode", encoding), ("decode", decoding)):
        rates = {side: FRAMES / value for side, value in taken.items()}
        ratio = rates["ours"] / rates["cosmos"]
        print(f"{name}: ours {rates['ours']:.2f} frames/s, Cosmos {rates['cosmos']:.2f} frames/s, ratio {ratio:.2f}")

    features = video_tokenizer.encoder.first(torch.rand(1, 48, FRAMES, SIDE // 4, SIDE // 4, device=device) * 2 - 1)
    block = video_tokenizer.encoder.body[0]
    last, first = features.contiguous(memory_format=torch.channels_last_3d), features.contiguous()
    places = in_turn({"last": lambda: block(last), "first": lambda: block(first)})
    print(f"a block with channels last in memory: {places['first'] / places['last']:.2f} times as fast as channels first")
    half = ours(device).bfloat16()
    types = in_turn({"fp32": lambda: video_tokenizer.encode(video), "bf16": lambda: half.encode(video)})
    print(f"encode in bf16: {types['fp32'] / types['bf16']:.2f} times as fast as in fp32")


if __name__ == "__main__":
    main()
