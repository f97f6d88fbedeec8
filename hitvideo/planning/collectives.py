"""The collectives of a language model's step: which kind, over which ranks, of how many bytes. Tests count the engine's own.

A collective's size is that of the whole buffer: what is gathered, what is reduced, what a rank holds before an all-to-all.
Scalars (norms, flags) are left out.
"""

from __future__ import annotations

from typing import Literal

import torch

from hitvideo.llm.model import LanguageModel
from hitvideo.ops.precision import DTYPES
from hitvideo.parallel.fake_ranks import fake_ranks
from hitvideo.parallel.share import share_of_model
from hitvideo.planning.gathers import gathers
from hitvideo.planning.zero import FP32_BYTES
from hitvideo.settings.programs import PretrainRun

Axis = Literal["zero", "tensor", "context"]
Kind = Literal["all-gather", "reduce-scatter", "all-reduce", "all-to-all"]
Volumes = dict[tuple[Axis, Kind], float]
"""Bytes per step."""


def volumes(settings: PretrainRun, shards: int, accumulation: int) -> Volumes:
    """All collectives of one rank's step."""
    with fake_ranks(settings.parallel), torch.device("meta"):
        model = share_of_model(settings)
    found = _zero(settings, model, shards, accumulation) if shards > 1 else {}
    if settings.parallel.tensor > 1:
        found |= _tensor(settings, model, accumulation)
    if settings.parallel.context > 1:
        found |= _context(settings, model, accumulation)
    return found


def _zero(settings: PretrainRun, model: LanguageModel, shards: int, accumulation: int) -> Volumes:
    """Gradients are reduced in fp32. ZeRO-0 and -1 do so once a step, ZeRO-2 and -3 once a micro-batch.

    For ZeRO-2 DeepSpeed reduces each gradient on all ranks, and a rank keeps its part: with a reduction to one rank at a time,
    which sends half as much, it would wait for the device at each.
    """
    parallel, width = settings.parallel, DTYPES[settings.train.dtype].itemsize
    if parallel.zero_stage == 3:
        weights = gathers(model, parallel.live_parameters, shards)
        gathered = accumulation * weights.per_micro_batch + weights.per_step
        reduced = accumulation * weights.all * FP32_BYTES
        return {("zero", "all-gather"): gathered * width, ("zero", "reduce-scatter"): reduced}
    reductions = accumulation if parallel.zero_stage == 2 else 1
    share = sum(parameter.numel() for parameter in model.parameters())
    found: Volumes = {("zero", "all-reduce"): reductions * share * FP32_BYTES}
    if parallel.zero_stage:
        found["zero", "all-gather"] = share * width
    return found


def _tensor(settings: PretrainRun, model: LanguageModel, accumulation: int) -> Volumes:
    """Sums of slots, of the loss' terms, and of the gradients of those norms that every rank applies to its own part.

    In a block the forward sums after both row layers, the backward before both column layers. Recomputing a block repeats the
    first of its row layers' sums: the second one's result is not needed. If slots are split over the ranks, a sum is a
    reduce-scatter; a column layer gathers slots in the forward and again in the backward, a row layer in the backward.
    """
    parallel, llm, layout = settings.parallel, settings.llm, model.layout
    batch, again = settings.train.micro_batch, parallel.activation_checkpointing == "block"
    row = layout.mean_slots(settings.grouped_share)
    trunk = batch * row / parallel.context * llm.width
    sums = llm.layers * (2 + 2 + again) * trunk
    embeddings = len(layout.grids) if llm.ancestors else 1  # one more for each level but the finest
    slots = embeddings * batch * row * layout.vocab.width * llm.width
    slots += batch * (layout.window - 1) * llm.width  # the backward of the text's head
    terms = batch * (layout.window - 1)
    for grid, ranges in zip(layout.grids, layout.vocab.ranges, strict=True):
        given = len(ranges) - 1  # each has an embedding, a column and a row layer
        slots += batch * grid.cells * llm.width * (len(ranges) + 3 * given)
        terms += batch * grid.cells * len(ranges)
    norms = llm.layers * 2 * llm.head_dim if llm.qk_norm else 0
    width = DTYPES[settings.train.dtype].itemsize
    found: Volumes = {}
    if parallel.sequence:
        norms += (llm.layers * 2 + 1) * llm.width
        gathered = llm.layers * (2 + 2 + 2 + 2 * again) + 2  # the backward of the trunk's entry, and its exit
        found["tensor", "all-gather"] = accumulation * gathered * trunk * width
        found["tensor", "reduce-scatter"] = accumulation * sums * width
    else:
        slots += sums
    # the loss of divided logits: their greatest, their sum and the target's
    found["tensor", "all-reduce"] = accumulation * ((slots + norms) * width + 3 * terms * FP32_BYTES)
    return found


def _context(settings: PretrainRun, model: LanguageModel, accumulation: int) -> Volumes:
    """Attention trades slots for heads and back; the trunk's exit gathers the slots, and the backward of its entry does."""
    parallel, llm, width = settings.parallel, settings.llm, DTYPES[settings.train.dtype].itemsize
    rows = settings.train.micro_batch * model.layout.mean_slots(settings.grouped_share)
    heads = 2 * llm.heads + 2 * llm.kv_heads  # q and the result, k and v
    held = rows * heads * llm.head_dim / parallel.context / parallel.tensor
    passes = 3 if parallel.activation_checkpointing == "block" else 2
    return {
        ("context", "all-gather"): accumulation * 2 * rows * llm.width * width,
        ("context", "all-to-all"): accumulation * llm.layers * passes * held * width,
    }
