"""The plan of a video tokenizer's run, before it starts: parameters, FLOPs, memory by phase, hours over its phases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.metrics.lpips import LPIPS
from hitvideo.ops.precision import DTYPES
from hitvideo.planning.activations import default_dtype, peak_bytes
from hitvideo.planning.cost import MILLION, hours_of, shard_bytes, usd_of
from hitvideo.planning.flops import FORWARD_AND_BACKWARD, encoding_flops_per_clip, training_flops_per_clip
from hitvideo.planning.zero import GIB, model_states, software_bytes
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.settings.video_tokenizer import PhaseSection
from hitvideo.video_tokenizer.objective import Objective
from hitvideo.video_tokenizer.phases import Place


@dataclass(frozen=True)
class PhasePlan:
    """One phase's memory on one rank."""

    name: str
    activations_gib: float
    """Peak of activations and temporary tensors in one micro-batch, the discriminator's and LPIPS' included."""
    total_gib: float
    """Activations, model states, the weights of LPIPS, and what CUDA and NCCL take."""
    tflops_per_clip: float
    """What a device executes for one clip, forward and backward, recomputation, discriminator and LPIPS included."""


@dataclass(frozen=True)
class VideoTokenizerPlan:
    """Figures of a tokenizer run before it starts."""

    parameters: int
    encoder_parameters: int
    quantizer_parameters: int
    decoder_parameters: int
    discriminator_parameters: int
    """Not part of `parameters`: the discriminator is trained with the tokenizer, but is not exported."""
    tokens_per_clip: int
    bits_per_pixel: float
    forward_tflops_per_clip: float
    encode_tflops_per_clip: float
    training_tflops_per_step: float
    accumulation: int
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    average_gib: float
    buckets_gib: float
    software_gib: float
    """CUDA's context and NCCL's buffers, which torch's allocator does not see."""
    activations_gib: float
    """The largest of all phases."""
    total_gib: float
    """The largest of all phases."""
    phases: tuple[PhasePlan, ...]
    available_gib: float
    hours: float
    device_hours: float
    usd: float | None
    """The run's price; null: cluster.usd_per_device_hour is not given."""
    tokenize_device_hours_per_million_clips: float
    """Of encoding, at cluster.assumed_mfu; decoding the videos takes CPU cores besides, and may take longer."""
    tokenize_usd_per_million_clips: float | None
    shards_gb_per_million_clips: float
    """Token shards, in 10⁹ bytes."""


def plan_video_tokenizer(settings: VideoTokenizerRun) -> VideoTokenizerPlan:
    """The plan of a run on `settings.cluster`: states by zero.py, activations and FLOPs by phase."""
    train, cluster = settings.train, settings.cluster
    with torch.device("meta"):
        objective = Objective(settings)
    model = objective.video_tokenizer
    encoder, quantizer, decoder, everything = map(_size, (model.encoder, model.quantizer, model.decoder, objective))
    parameters = encoder + quantizer + decoder
    world = cluster.nodes * cluster.devices_per_node
    clips = [settings.clip_in(phase) for phase in settings.schedule]
    per_clip = {clip: training_flops_per_clip(settings, clip) for clip in {settings.clip, *clips}}
    tokens, encoding = settings.hierarchy.tokens(settings.clip.extent), encoding_flops_per_clip(settings)
    million = hours_of(encoding * MILLION, cluster)
    states = model_states(everything, settings.parallel, train, world)
    software = software_bytes(settings.parallel, world) if cluster.trains_on == "gpu" else 0
    phases = _phases(settings, states.total + software)
    executed = (plan.tflops_per_clip * 1e12 * phase.steps for plan, phase in zip(phases, settings.schedule, strict=True))
    flops = sum(executed) * train.global_batch
    hours = flops / (world * cluster.peak_tflops * 1e12 * cluster.assumed_mfu) / 3600
    return VideoTokenizerPlan(
        parameters=parameters,
        encoder_parameters=encoder,
        quantizer_parameters=quantizer,
        decoder_parameters=decoder,
        discriminator_parameters=everything - parameters,
        tokens_per_clip=tokens,
        bits_per_pixel=settings.hierarchy.bits_per_pixel,
        forward_tflops_per_clip=per_clip[settings.clip] / FORWARD_AND_BACKWARD / 1e12,
        encode_tflops_per_clip=encoding / 1e12,
        training_tflops_per_step=per_clip[settings.clip] * train.global_batch / 1e12,
        accumulation=train.accumulation(world),
        weights_gib=states.weights / GIB,
        gradients_gib=states.gradients / GIB,
        optimizer_gib=states.optimizer / GIB,
        average_gib=states.average / GIB,
        buckets_gib=states.buckets / GIB,
        software_gib=software / GIB,
        activations_gib=max(phase.activations_gib for phase in phases),
        total_gib=max(phase.total_gib for phase in phases),
        phases=phases,
        available_gib=cluster.memory_gib,
        hours=hours,
        device_hours=hours * world,
        usd=usd_of(hours * world, cluster),
        tokenize_device_hours_per_million_clips=million,
        tokenize_usd_per_million_clips=usd_of(million, cluster),
        shards_gb_per_million_clips=shard_bytes(settings.hierarchy, tokens) * MILLION / 1e9,
    )


def _phases(settings: VideoTokenizerRun, states: float) -> tuple[PhasePlan, ...]:
    """Every phase's plan. Phases that differ only in what takes no memory are measured once."""
    known: dict[tuple[object, ...], tuple[float, float]] = {}
    found = []
    with torch.device("meta"):
        judge = sum(p.nbytes for p in LPIPS().parameters()) if settings.loss.perceptual.weight else 0
    for number, phase in enumerate(settings.schedule):
        kind = (settings.clip_in(phase), phase.train, phase.adversarial)
        if kind not in known:
            known[kind] = phase_cost(settings, phase, number)
        activations, flops = known[kind]
        found.append(PhasePlan(phase.name, activations / GIB, (activations + states + judge) / GIB, flops / 1e12))
    return tuple(found)


def phase_cost(settings: VideoTokenizerRun, phase: PhaseSection, number: int = 0) -> tuple[float, float]:
    """Peak bytes of one micro-batch in a phase, without weights and gradients, and the FLOPs that torch counts for one clip.

    Both are of the same pass; its clips are decoded from all levels. LPIPS counts if its weight is above 0, even
    if its files are not yet given.
    """
    clip, levels = settings.clip_in(phase), len(settings.hierarchy.levels)
    with FakeTensorMode():
        with default_dtype(DTYPES[settings.train.dtype]):
            objective = Objective(settings)
        perceptual = LPIPS() if settings.loss.perceptual.weight else None

        def loss() -> torch.Tensor:
            video = torch.empty(settings.train.micro_batch, 3, *clip.extent)
            prefix = torch.full((len(video),), phase.levels or levels)
            found: torch.Tensor = objective(video, prefix, 0, Place(number, phase, 0), None, perceptual)["loss"]
            return found

        with FlopCounterMode(display=False) as counter:
            peak = peak_bytes(objective, loss)
    return peak, counter.get_total_flops() / settings.train.micro_batch


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
