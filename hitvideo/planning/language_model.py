"""The plan of a language model's run, before it starts: memory of a rank, traffic, hours, and what limits it.

Model states are arithmetic (zero.py), activations are measured without a device (activations.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hitvideo.llm.fused import shares
from hitvideo.llm.model import LanguageModel
from hitvideo.ops.precision import DTYPES
from hitvideo.planning.activations import activation_bytes
from hitvideo.planning.cost import MILLION, checkpoints_kept, shard_bytes, usd_of
from hitvideo.planning.drawing import drawing
from hitvideo.planning.flops import meta_model, mfu, recomputed_flops_per_row, training_flops_per_row
from hitvideo.planning.traffic import traffic_bytes, traffic_seconds
from hitvideo.planning.zero import FP32_BYTES, GIB, ModelStates, host_bytes, model_states, software_bytes
from hitvideo.settings.programs import PretrainRun

_MANY_SHARDS = 256


@dataclass(frozen=True)
class LanguageModelPlan:
    """Memory in GiB of the fullest rank at its peak, traffic in GiB that a rank sends per step, time in seconds per step."""

    parameters: int
    tokens_per_row: int
    tokens_per_step: int
    gflops_per_token: float
    training_tflops_per_step: float
    accumulation: int
    data_ranks: int
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    """The fp32 weights and both Adam moments."""
    average_gib: float
    """The moving average of the weights (train.ema)."""
    gathered_gib: float
    """Weights of other ranks, while ZeRO-3 needs them."""
    buckets_gib: float
    """Gradients being reduced."""
    activations_gib: float
    """Activations, including logits and recomputation."""
    logits_gib: float
    """The part of `activations_gib` that is the widest head's logits in fp32 and their gradient."""
    software_gib: float
    """CUDA's context and NCCL's buffers, which torch's allocator does not see."""
    total_gib: float
    available_gib: float
    start_host_gib: float
    """Peak of one rank's host memory at the start: the largest parameter as it is drawn, or ZeRO-3's copy of its weights."""
    start_device_gib: float
    """Peak at the start: ZeRO-3 has one whole parameter at a time, the other stages put all weights end to end in a copy."""
    host_gib: float
    """Host memory for one rank's copy of its state while a checkpoint is written."""
    checkpoint_gib: float
    """One checkpoint on disk: the files of all ranks."""
    checkpoint_s: float
    """Time to write one at cluster.storage_gbs, next to training."""
    storage_gib: float
    """The most that the run's checkpoints take on disk at once."""
    zero_gib_per_step: float
    tensor_gib_per_step: float
    context_gib_per_step: float
    compute_s: float
    """Time of a step's FLOPs, recomputed ones included, at cluster.assumed_mfu; that allows for traffic that is not hidden."""
    traffic_s: float
    """Time of a step's traffic over its slowest links; if it is below compute_s, it can be hidden."""
    mfu_causal: float
    """Share of the peak if a step takes the longer of both times, without recomputed FLOPs; a query counts half the keys."""
    mfu_full_attention: float
    """The same with all keys counted for each query, as most published figures are."""
    binds: str
    """What limits the run: "memory", "traffic" or "compute"."""
    hours: float
    device_hours: float
    usd: float | None
    """The run's price; null: cluster.usd_per_device_hour is not given."""
    device_hours_per_million_clips: float
    """Of training on each clip once."""
    usd_per_million_clips: float | None
    shards_gb_per_million_clips: float
    """Token shards, in 10⁹ bytes."""
    draw_storyboard_s: float | None
    """Time to draw level 0 of one video with guidance, one by one on one device, each kernel launched by Python
    (planning/drawing.py); null: cluster.memory_gbs is not given, or it does not fit."""
    draw_video_s: float | None
    """The same for all levels."""
    draw_video_device_s: float | None
    """What of that the device needs: the time if the passes are compiled into CUDA graphs."""
    draw_grouped_s: float | None
    """`draw_video_s` by groups; null: the run does not learn them."""
    caution: str
    """What the figures do not show; empty if nothing."""


def plan_language_model(settings: PretrainRun) -> LanguageModelPlan:
    """The plan of a run on `settings.cluster`; takes seconds and no device. Raises ConfigError if the batch does not divide."""
    model, train, cluster, parallel = meta_model(settings), settings.train, settings.cluster, settings.parallel
    world = cluster.nodes * cluster.devices_per_node
    shards = max(world // parallel.tensor, 1)
    data_ranks = max(shards // parallel.context, 1)
    accumulation = train.accumulation(data_ranks)
    parameters = sum(p.numel() for p in model.parameters())
    share = parameters / parallel.tensor
    block = max(sum(p.numel() for p in block.parameters()) for block in model.trunk.blocks) // parallel.tensor
    states = model_states(share, parallel, train, shards, block)
    start_host, start_device = _start(settings, model, states)
    activations = activation_bytes(settings)
    software = software_bytes(parallel, world) if cluster.trains_on == "gpu" else 0
    total = states.total + activations + software
    flops = training_flops_per_row(model, grouped=settings.grouped_share) * train.global_batch
    full = training_flops_per_row(model, full_attention=True, grouped=settings.grouped_share) * train.global_batch
    again = recomputed_flops_per_row(model, parallel.activation_checkpointing) * train.global_batch
    compute = (flops + again) / (world * cluster.peak_tflops * 1e12 * cluster.assumed_mfu)
    sent = zero, tensor, context = traffic_bytes(settings, shards, accumulation)
    traffic = traffic_seconds(sent, settings)
    step = max(compute, traffic)
    layout, hours = model.layout, train.steps * step / 3600
    checkpoint = float(parameters * FP32_BYTES * (4 if train.ema else 3))
    million = hours * world / (train.steps * train.global_batch) * MILLION
    clip_bytes = shard_bytes(settings.hierarchy, layout.length - 1 - layout.window)
    story, video = drawing(model, cluster, 1), drawing(model, cluster, len(layout.grids))
    grouped = drawing(model, cluster, len(layout.grids), grouped=True) if settings.grouped_share else None
    return LanguageModelPlan(
        parameters=parameters,
        tokens_per_row=layout.length,
        tokens_per_step=layout.length * train.global_batch,
        gflops_per_token=flops / train.global_batch / layout.length / 1e9,
        training_tflops_per_step=flops / 1e12,
        accumulation=accumulation,
        data_ranks=data_ranks,
        weights_gib=states.weights / GIB,
        gradients_gib=states.gradients / GIB,
        optimizer_gib=states.optimizer / GIB,
        average_gib=states.average / GIB,
        gathered_gib=states.gathered / GIB,
        buckets_gib=states.buckets / GIB,
        activations_gib=activations / GIB,
        logits_gib=_logits(model) * train.micro_batch * 2 * 4 / parallel.tensor / GIB,
        software_gib=software / GIB,
        total_gib=total / GIB,
        available_gib=cluster.memory_gib,
        start_host_gib=start_host / GIB,
        start_device_gib=start_device / GIB,
        host_gib=host_bytes(share, parallel, train, shards) / GIB,
        checkpoint_gib=checkpoint / GIB,
        checkpoint_s=checkpoint / (cluster.storage_gbs * 1e9),
        storage_gib=checkpoint * checkpoints_kept(settings.checkpoint, train.steps) / GIB,
        zero_gib_per_step=zero / GIB,
        tensor_gib_per_step=tensor / GIB,
        context_gib_per_step=context / GIB,
        compute_s=compute,
        traffic_s=traffic,
        mfu_causal=mfu(flops / step, world, cluster),
        mfu_full_attention=mfu(full / step, world, cluster),
        binds="memory" if total > cluster.memory_gib * GIB else "traffic" if traffic > compute else "compute",
        hours=hours,
        device_hours=hours * world,
        usd=usd_of(hours * world, cluster),
        device_hours_per_million_clips=million,
        usd_per_million_clips=usd_of(million, cluster),
        shards_gb_per_million_clips=clip_bytes * MILLION / 1e9,
        draw_storyboard_s=story and story.launched_s,
        draw_video_s=video and video.launched_s,
        draw_video_device_s=video and video.device_s,
        draw_grouped_s=grouped and grouped.launched_s,
        caution=_caution(settings, shards),
    )


def _caution(settings: PretrainRun, shards: int) -> str:
    if settings.parallel.zero_stage < 3 or shards <= _MANY_SHARDS:
        return ""
    return (
        f"parallel.zero_stage 3 over {shards} ranks: DeepSpeed loops over all ranks in Python for every parameter; above "
        f"{_MANY_SHARDS} that may take longer than the GPUs' work, which the hours leave out; use parallel.zero_stage=1 or 2"
    )


def _start(settings: PretrainRun, model: LanguageModel, states: ModelStates) -> tuple[float, float]:
    """Peak bytes of host and device while a rank makes its engine and draws the weights; there are no Adam moments yet."""
    largest, partitioned = max(p.numel() for p in model.parameters()), settings.parallel.zero_stage == 3
    parameter = largest / settings.parallel.tensor * DTYPES[settings.train.dtype].itemsize
    placing = states.weights + (parameter if partitioned else states.weights)
    kept = states.weights + states.masters + states.gradients + states.average
    drawn = max(math.prod(shape) for _, _, parts in shares(model) for shape in parts.values())  # fused ones by part
    return max(drawn * FP32_BYTES, states.weights if partitioned else 0), max(placing, kept)


def _logits(model: LanguageModel) -> int:
    """Entries of the widest head's logits for one row."""
    layout = model.layout
    levels = [
        grid.cells * max(1 << id_range.bits for id_range in row)
        for grid, row in zip(layout.grids, layout.vocab.ranges, strict=True)
    ]
    return max((layout.window - 1) * layout.vocab.text_size, *levels)
