"""What a run costs: parameters, FLOPs, MFU, and the memory of one rank, computed on a laptop from the config alone.

Parameters are counted on a meta-device model. FLOPs are those of the algorithm, recomputation not counted: 2 per weight
and slot in the forward, attention halved because it is causal, the heads only on their own level's slots; the backward
is twice the forward (Kaplan et al. 2020, appendix of PaLM).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hitvideo.llm.model import LanguageModel
from hitvideo.schema import PretrainRun
from hitvideo.sections import ClusterSection
from hitvideo.sequence import SequenceLayout
from hitvideo.vocab import Vocab

FORWARD_AND_BACKWARD = 3
GIB = 1 << 30


def make_layout(settings: PretrainRun) -> SequenceLayout:
    """The layout of a run's rows, from its hierarchy, clip and text section."""
    vocab = Vocab(settings.text.vocab_size, settings.hierarchy)
    return SequenceLayout(vocab, settings.hierarchy, settings.video.extent, settings.text.window)


def meta_model(settings: PretrainRun) -> LanguageModel:
    """The undivided model without memory for its weights."""
    with torch.device("meta"):
        return LanguageModel(settings.llm, make_layout(settings))


def training_flops_per_row(model: LanguageModel) -> float:
    """FLOPs of forward and backward for one row."""
    layout, section = model.layout, model.section
    slots = layout.length - 1
    trunk = sum(p.numel() for p in model.trunk.parameters() if p.ndim > 1)
    attention = section.layers * 2 * 2 * slots * section.width / 2  # q·k and p·v for one query, half the keys
    heads = (layout.window - 1) * layout.vocab.text_size * section.width
    for head, grid in zip(model.heads, layout.grids, strict=True):
        # a sub-code's embedding is a look-up: no product
        matrices = sum(p.numel() for name, p in head.named_parameters() if p.ndim > 1 and "embedding" not in name)
        heads += grid.cells * matrices
    return FORWARD_AND_BACKWARD * float(slots * (2 * trunk + attention) + 2 * heads)


def mfu(flops_per_second: float, world: int, cluster: ClusterSection) -> float:
    """Model FLOPs utilisation: the share of the devices' dense peak that the algorithm's FLOPs take."""
    return flops_per_second / (world * cluster.peak_tflops * 1e12)


@dataclass(frozen=True)
class Plan:
    """Figures of a run before it is started. Memory in GiB on the fullest rank; times for the assumed MFU."""

    parameters: int
    tokens_per_row: int
    tokens_per_step: int
    training_tflops_per_step: float
    accumulation: int
    data_ranks: int
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    activations_gib: float
    total_gib: float
    available_gib: float
    hours: float
    device_hours: float


def plan(settings: PretrainRun) -> Plan:
    """Memory by ZeRO's arithmetic (Rajbhandari et al. 2020, figure 1), activations after Korthikanti et al. 2022, eq. 2."""
    model = meta_model(settings)
    layout, train, cluster = model.layout, settings.train, settings.cluster
    world = cluster.nodes * cluster.devices_per_node
    tensor = settings.parallel.tensor
    data_ranks = max(world // tensor, 1)
    parameters = sum(p.numel() for p in model.parameters())
    share, stage = parameters / tensor, settings.parallel.zero_stage
    width = 2 if train.dtype == "bf16" else 4
    weights = share * width / (data_ranks if stage == 3 else 1)
    gradients = share * 4 / (data_ranks if stage >= 2 else 1)
    optimizer = share * 12 / data_ranks  # fp32 master and both moments
    flops = training_flops_per_row(model) * train.global_batch
    seconds = train.steps * flops / (world * cluster.peak_tflops * 1e12 * cluster.assumed_mfu)
    activations = _activation_bytes(settings, layout.length - 1, width)
    return Plan(
        parameters=parameters,
        tokens_per_row=layout.length,
        tokens_per_step=layout.length * train.global_batch,
        training_tflops_per_step=flops / 1e12,
        accumulation=train.accumulation(data_ranks),
        data_ranks=data_ranks,
        weights_gib=weights / GIB,
        gradients_gib=gradients / GIB,
        optimizer_gib=optimizer / GIB,
        activations_gib=activations / GIB,
        total_gib=(weights + gradients + optimizer + activations) / GIB,
        available_gib=cluster.memory_gib,
        hours=seconds / 3600,
        device_hours=seconds / 3600 * world,
    )


def _activation_bytes(settings: PretrainRun, slots: int, width: int) -> float:
    """What one micro-batch keeps for its backward: every block's tensors, or with recomputation only its input."""
    section, tensor = settings.llm, settings.parallel.tensor
    rows = settings.train.micro_batch * slots
    kv = section.kv_heads * section.head_dim
    # Replicated: two norms' inputs (fp32) and outputs.
    # Divided: q, k, v, their turned copies, attention's output, and SwiGLU's three.
    replicated = rows * section.width * (2 * 4 + 2 * width)
    divided = rows * (3 * section.width + 4 * kv + 4 * section.hidden) * width / tensor
    block = replicated + divided
    kept = section.layers * rows * section.width * width if settings.parallel.activation_checkpointing == "block" else 0.0
    alive = block if kept else block * section.layers
    logits = settings.text.window * settings.text.vocab_size
    for level, grid in zip(settings.hierarchy.levels, settings.hierarchy.grids(settings.video.extent), strict=True):
        logits += grid.cells * sum(1 << bits for bits in level.sub_codes)
    return kept + alive + 2 * 4 * settings.train.micro_batch * logits / tensor  # fp32, and their gradients
