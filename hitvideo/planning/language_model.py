"""What a run of the language model takes, before it is started: memory of a rank, traffic, hours, and what binds it.

Model states are ZeRO's arithmetic (Rajbhandari et al. 2020, figure 1) as DeepSpeed lays it out. Activations are not a
formula: two and three layers of one rank's share run forward and backward on tensors without data, torch's tracker says how
high memory stood, and the other layers are as the third. So what the code keeps is what is counted, recomputation and logits
included. The kernels are the CPU's; a GPU's fused norm keeps less.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import again
from hitvideo.planning.flops import make_layout, meta_model, training_flops_per_row
from hitvideo.settings.programs import PretrainRun
from hitvideo.settings.training import ParallelSection

GIB = 1 << 30
_WIDTHS = {"fp32": (torch.float32, 4), "bf16": (torch.bfloat16, 2)}


@dataclass(frozen=True)
class Plan:
    """Memory in GiB on the fullest rank at its fullest moment, traffic in GiB sent by a rank in a step, time in seconds."""

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
    """The fp32 weights and both of Adam's moments."""
    gathered_gib: float
    """Weights of other ranks, while they are needed."""
    buckets_gib: float
    """Gradients on their way."""
    activations_gib: float
    """Logits and recomputation included."""
    logits_gib: float
    """Of which logits of the widest head, in fp32 and their gradient."""
    total_gib: float
    available_gib: float
    host_gib: float
    """Of the node's memory, for a rank's copy of its state while a checkpoint is written."""
    checkpoint_gib: float
    """One checkpoint on disk, all ranks' files."""
    zero_gib_per_step: float
    tensor_gib_per_step: float
    context_gib_per_step: float
    compute_s: float
    """Of a step, at the assumed MFU, which counts the traffic that is not hidden."""
    traffic_s: float
    """Of a step, over the slowest link on the way; below compute_s it can be hidden."""
    binds: str
    hours: float
    device_hours: float


def plan(settings: PretrainRun) -> Plan:
    """The figures of a run on `settings.cluster`; seconds of work, no device."""
    model, train, cluster, parallel = meta_model(settings), settings.train, settings.cluster, settings.parallel
    world = cluster.nodes * cluster.devices_per_node
    shards = max(world // parallel.tensor, 1)
    data_ranks = max(shards // parallel.context, 1)
    accumulation = train.accumulation(data_ranks)
    parameters = sum(p.numel() for p in model.parameters())
    share, stage, width = parameters / parallel.tensor, parallel.zero_stage, _WIDTHS[train.dtype][1]
    divided = [shards if stage >= limit else 1 for limit in (3, 2, 1)]
    weights, gradients, masters = (share * size / by for size, by in zip((width, 4, 4), divided, strict=True))
    moments = 8 * share / divided[2]
    optimizer = moments + (masters if stage else 0)  # without ZeRO the fp32 weights are the weights
    gathered = min(share, parallel.live_parameters) * width if stage == 3 and shards > 1 else 0
    buckets = parallel.bucket * width if stage and shards > 1 else 0
    activations = activation_bytes(settings)
    total = weights + gradients + optimizer + gathered + buckets + activations
    flops = training_flops_per_row(model) * train.global_batch
    compute = flops / (world * cluster.peak_tflops * 1e12 * cluster.assumed_mfu)
    zero, tensor, context = _traffic(settings, share, shards, accumulation)
    near, far = cluster.near_gbs * 1e9, (cluster.far_gbs if cluster.nodes > 1 else cluster.near_gbs) * 1e9
    spread = parallel.tensor * parallel.context > cluster.devices_per_node
    traffic = zero / far + tensor / near + context / (far if spread else near)
    layout, hours = model.layout, train.steps * compute / 3600
    return Plan(
        parameters=parameters,
        tokens_per_row=layout.length,
        tokens_per_step=layout.length * train.global_batch,
        gflops_per_token=flops / train.global_batch / layout.length / 1e9,
        training_tflops_per_step=flops / 1e12,
        accumulation=accumulation,
        data_ranks=data_ranks,
        weights_gib=weights / GIB,
        gradients_gib=gradients / GIB,
        optimizer_gib=optimizer / GIB,
        gathered_gib=gathered / GIB,
        buckets_gib=buckets / GIB,
        activations_gib=activations / GIB,
        logits_gib=_logits(model) * train.micro_batch * 2 * 4 / parallel.tensor / GIB,
        total_gib=total / GIB,
        available_gib=cluster.memory_gib,
        host_gib=(moments + masters) * (4 if train.ema else 3) / 3 / GIB,
        checkpoint_gib=parameters * (16 if train.ema else 12) / GIB,
        zero_gib_per_step=zero / GIB,
        tensor_gib_per_step=tensor / GIB,
        context_gib_per_step=context / GIB,
        compute_s=compute,
        traffic_s=traffic,
        binds="memory" if total > cluster.memory_gib * GIB else "traffic" if traffic > compute else "compute",
        hours=hours,
        device_hours=hours * world,
    )


def activation_bytes(settings: PretrainRun) -> float:
    """The highest that activations and what comes and goes beside them stand in one micro-batch."""
    few, more = (_peak(settings, layers) for layers in (2, 3))
    return few + (settings.llm.layers - 2) * (more - few)


def _peak(settings: PretrainRun, layers: int) -> float:
    """In bytes, of a model with so many layers, on tensors that have a shape and no data; weights and gradients left out."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(_WIDTHS[settings.train.dtype][0])
    try:
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracker's, of gradients dropped below
            section, share = settings.llm.model_copy(update={"layers": layers}), _Share(settings.parallel)
            trunk = _TrunkShare(settings.parallel)
            model = LanguageModel(section, make_layout(settings), share, trunk, settings.parallel.activation_checkpointing)
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]
            model.slots(torch.device("cpu"))
            layout = model.layout
            rows = torch.zeros(settings.train.micro_batch, layout.length, layout.vocab.width, dtype=torch.long)
            tracker = MemTracker()
            tracker.track_external(model)
            start = _standing(tracker, "current")
            with tracker:
                model(rows, 1.0)["loss"].backward()
            return _standing(tracker, "peak") - start
    finally:
        torch.set_default_dtype(before)


def _drop(parameter: torch.Tensor) -> None:
    parameter.grad = None  # its place is planned for by itself


def _standing(tracker: MemTracker, moment: str) -> float:
    return float(sum(device["Total"] for device in tracker.get_tracker_snapshot(moment).values()))


class _Share(DenseLayers):
    """One rank's share of the layers, with nobody to speak to."""

    def __init__(self, parallel: ParallelSection) -> None:
        self.tensor_parallel = parallel.tensor

    def column(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs // self.tensor_parallel, bias=False)

    def row(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs // self.tensor_parallel, outputs, bias=False)

    def embedding(self, entries: int, width: int) -> nn.Module:
        return nn.Embedding(entries // self.tensor_parallel, width)


class _TrunkShare(_Share):
    """The trunk's: slots are divided over `parts` ranks, of which `sequence` share each tensor-parallel matrix."""

    def __init__(self, parallel: ParallelSection) -> None:
        super().__init__(parallel)
        self.context = parallel.context
        self.sequence = parallel.tensor if parallel.sequence else 1
        self.parts = self.context * self.sequence

    def column(self, inputs: int, outputs: int) -> nn.Module:
        return _GatheringLinear(inputs, outputs // self.tensor_parallel, self.sequence)

    def row(self, inputs: int, outputs: int) -> nn.Module:
        return _ScatteringLinear(inputs // self.tensor_parallel, outputs, self.sequence)

    def scatter(self, x: torch.Tensor) -> torch.Tensor:
        if self.parts == 1:
            return x
        mine = cast(torch.Tensor, _Scatter.apply(x, self.parts))  # type: ignore[no-untyped-call]
        return mine.transpose(0, 1).contiguous().transpose(0, 1) if self.sequence > 1 else mine

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, _Gather.apply(x, self.parts)) if self.parts > 1 else x  # type: ignore[no-untyped-call]

    def slots_to_heads(self, x: torch.Tensor) -> torch.Tensor:
        if self.context == 1:
            return x
        batch, slots, heads, dims = x.shape
        got = x.view(batch, slots, self.context, heads // self.context, dims).permute(2, 0, 1, 3, 4).contiguous().clone()
        return got.permute(1, 0, 2, 3, 4).reshape(batch, self.context * slots, heads // self.context, dims)

    def heads_to_slots(self, x: torch.Tensor) -> torch.Tensor:
        if self.context == 1:
            return x
        batch, slots, heads, dims = x.shape
        got = x.view(batch, self.context, slots // self.context, heads, dims).transpose(0, 1).contiguous().clone()
        return got.permute(1, 2, 0, 3, 4).reshape(batch, slots // self.context, self.context * heads, dims)


class _Scatter(torch.autograd.Function):
    """As parallel/slots.py does it, copies included: what arrives from the ranks is joined in a place of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: int) -> torch.Tensor:
        ctx.parts = parts
        return x.chunk(parts, 1)[0].clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return torch.cat([torch.empty_like(gradient) for _ in range(ctx.parts)], 1), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, parts: int) -> torch.Tensor:
        ctx.parts = parts
        return torch.cat([torch.empty_like(x) for _ in range(parts)], 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient.chunk(ctx.parts, 1)[0].clone(), None


class _GatheringLinear(nn.Linear):
    """Megatron's column layer, slots first: it keeps a rank's slots only, and gathers them again in the backward."""

    def __init__(self, inputs: int, outputs: int, ranks: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.ranks = ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return F.linear(x, self.weight)
        mine = x.transpose(0, 1).contiguous()
        return again(True, lambda x: F.linear(torch.cat([x] * self.ranks), self.weight), mine).transpose(0, 1)


class _ScatteringLinear(_GatheringLinear):
    """Megatron's row layer, slots first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return F.linear(x, self.weight)
        return F.linear(x.transpose(0, 1).contiguous(), self.weight).chunk(self.ranks)[0].clone().transpose(0, 1)


def _logits(model: LanguageModel) -> int:
    """Entries of the widest head's logits, of one row."""
    layout = model.layout
    levels = [
        grid.cells * max(1 << block.bits for block in row)
        for grid, row in zip(layout.grids, layout.vocab.blocks, strict=True)
    ]
    return max((layout.window - 1) * layout.vocab.text_size, *levels)


def _traffic(settings: PretrainRun, share: float, shards: int, accumulation: int) -> tuple[float, float, float]:
    """Bytes that a rank sends in a step along ZeRO's, the tensor and the context axis.

    An all-gather or reduce-scatter of n bytes over r ranks sends n (r-1)/r, an all-reduce twice that, an all-to-all of what a
    rank holds (r-1)/r of it.
    """
    parallel, section, train = settings.parallel, settings.llm, settings.train
    width, again_too = _WIDTHS[train.dtype][1], parallel.activation_checkpointing == "block"
    ring = (shards - 1) / shards
    if parallel.zero_stage == 3:  # weights for the forward, the recomputation and the backward; gradients
        zero = accumulation * share * (width * (3 if again_too else 2) + 4) * ring
    elif parallel.zero_stage == 2:
        zero = (accumulation * share * 4 + share * width) * ring
    else:
        zero = (2 * share * 4 + share * width * parallel.zero_stage) * ring
    rows = accumulation * train.micro_batch * (make_layout(settings).length - 1) / parallel.context
    passes = 3 if again_too else 2  # each sums what two row layers make, or gathers and scatters it: the same bytes
    tensor = section.layers * passes * 2 * 2 * rows * section.width * width * (parallel.tensor - 1) / parallel.tensor
    heads = 2 * section.heads + 2 * section.kv_heads  # q and the result, k and v
    held = rows * heads * section.head_dim / parallel.tensor * width
    context = section.layers * passes * held * (parallel.context - 1) / parallel.context
    return zero, tensor, context
