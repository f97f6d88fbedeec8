"""The plan of a video tokenizer's run, before it starts: parameters, FLOPs, memory, hours over its phases."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hitvideo.planning.flops import FORWARD_AND_BACKWARD, training_flops_per_clip
from hitvideo.planning.zero import GIB, model_states
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video_tokenizer.model import VideoTokenizer


@dataclass(frozen=True)
class VideoTokenizerPlan:
    """Figures of a tokenizer run before it starts. Activations are not included."""

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
    average_gib: float
    buckets_gib: float
    total_gib: float
    """All model states; activations come on top."""
    available_gib: float
    hours: float
    device_hours: float


def plan_video_tokenizer(settings: VideoTokenizerRun) -> VideoTokenizerPlan:
    """The plan of a run on `settings.cluster`: memory by zero.py, time for the cluster's assumed MFU."""
    train, cluster = settings.train, settings.cluster
    with torch.device("meta"):
        model = VideoTokenizer(settings.video_tokenizer, settings.hierarchy)
    encoder, quantizer, decoder = (
        sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.quantizer, model.decoder)
    )
    parameters = encoder + quantizer + decoder
    world = cluster.nodes * cluster.devices_per_node
    clips = [settings.clip_in(phase) for phase in settings.schedule]
    per_clip = {clip: training_flops_per_clip(settings, clip) for clip in {settings.clip, *clips}}
    flops = sum(per_clip[clip] * phase.steps for clip, phase in zip(clips, settings.schedule, strict=True)) * train.global_batch
    states = model_states(parameters, settings.parallel, train, world)
    hours = flops / (world * cluster.peak_tflops * 1e12 * cluster.assumed_mfu) / 3600
    return VideoTokenizerPlan(
        parameters=parameters,
        encoder_parameters=encoder,
        quantizer_parameters=quantizer,
        decoder_parameters=decoder,
        tokens_per_clip=settings.hierarchy.tokens(settings.clip.extent),
        bits_per_pixel=settings.hierarchy.bits_per_pixel,
        forward_tflops_per_clip=per_clip[settings.clip] / FORWARD_AND_BACKWARD / 1e12,
        training_tflops_per_step=per_clip[settings.clip] * train.global_batch / 1e12,
        accumulation=train.accumulation(world),
        weights_gib=states.weights / GIB,
        gradients_gib=states.gradients / GIB,
        optimizer_gib=states.optimizer / GIB,
        average_gib=states.average / GIB,
        buckets_gib=states.buckets / GIB,
        total_gib=states.total / GIB,
        available_gib=cluster.memory_gib,
        hours=hours,
        device_hours=hours * world,
    )
