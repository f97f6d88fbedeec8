"""What a video tokenizer costs, before it is trained: parameters, FLOPs, memory, hours by its phases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.hierarchy import Clip
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer

_FORWARD_AND_BACKWARD = 3
_GIB = 1 << 30


@dataclass(frozen=True)
class TokenizerPlan:
    """Figures of a tokenizer run before it is started. Activations are not planned: they are the allocator's to show."""

    parameters: int
    encoder_parameters: int
    quantizer_parameters: int
    decoder_parameters: int
    tokens_per_clip: int
    bits_per_pixel: float
    forward_tflops_per_clip: float
    training_tflops_per_step: float
    accumulation: int
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    total_gib: float
    """Without activations."""
    available_gib: float
    hours: float
    device_hours: float


def training_flops_per_clip(settings: VideoTokenizerRun, clip: Clip | None = None) -> float:
    """FLOPs of the tokenizer's forward and backward, counted by torch on a pass without data; backward is twice forward.

    Discriminator and LPIPS are not counted: they are not what is trained for use.
    """
    extent = (clip or settings.video).extent
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        VideoTokenizer(settings.video_tokenizer, settings.hierarchy)(torch.empty(1, 3, *extent))
    return _FORWARD_AND_BACKWARD * float(counter.get_total_flops())


def plan(settings: VideoTokenizerRun) -> TokenizerPlan:
    """Memory by ZeRO's arithmetic (Rajbhandari et al. 2020, figure 1); time for the cluster's assumed MFU."""
    train, cluster, stage = settings.train, settings.cluster, settings.parallel.zero_stage
    with torch.device("meta"):
        tokenizer = VideoTokenizer(settings.video_tokenizer, settings.hierarchy)
    encoder, quantizer, decoder = (
        sum(p.numel() for p in part.parameters()) for part in (tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder)
    )
    parameters = encoder + quantizer + decoder
    world = cluster.nodes * cluster.devices_per_node
    clips = [settings.clip_in(phase) for phase in settings.schedule]
    per_clip = {clip: training_flops_per_clip(settings, clip) for clip in {settings.video, *clips}}
    flops = sum(per_clip[clip] * phase.steps for clip, phase in zip(clips, settings.schedule, strict=True)) * train.global_batch
    weights = parameters * (2 if train.dtype == "bf16" else 4) / (world if stage == 3 else 1)
    gradients = parameters * 4 / (world if stage >= 2 else 1)
    optimizer = parameters * 12 / world  # fp32 master and both moments
    hours = flops / (world * cluster.peak_tflops * 1e12 * cluster.assumed_mfu) / 3600
    return TokenizerPlan(
        parameters=parameters,
        encoder_parameters=encoder,
        quantizer_parameters=quantizer,
        decoder_parameters=decoder,
        tokens_per_clip=settings.hierarchy.tokens(settings.video.extent),
        bits_per_pixel=settings.hierarchy.bits_per_pixel,
        forward_tflops_per_clip=per_clip[settings.video] / _FORWARD_AND_BACKWARD / 1e12,
        training_tflops_per_step=per_clip[settings.video] * train.global_batch / 1e12,
        accumulation=train.accumulation(world),
        weights_gib=weights / _GIB,
        gradients_gib=gradients / _GIB,
        optimizer_gib=optimizer / _GIB,
        total_gib=(weights + gradients + optimizer) / _GIB,
        available_gib=cluster.memory_gib,
        hours=hours,
        device_hours=hours * world,
    )
