"""Activation memory of one rank, measured on tensors without data.

One rank's share of a model runs forward and backward under torch's fake tensors and memory tracker. So exactly what the
code keeps is counted, recomputation and logits included. A language model runs with two and with three layers; the
difference is what each further layer takes. The kernels are the CPU's except for the norm: a GPU's fused kernel keeps its
input and one number a row, where the CPU's keeps fp32 copies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import recomputed
from hitvideo.ops import norm
from hitvideo.ops.precision import DTYPES
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun
from hitvideo.settings.training import ParallelSection


def activation_bytes(settings: PretrainRun) -> float:
    """Peak bytes of activations and temporary tensors in one micro-batch, without weights and gradients."""
    few, more = (_layers_peak(settings, layers) for layers in (2, 3))
    return few + (settings.llm.layers - 2) * (more - few)


def peak_bytes(model: nn.Module, loss: Callable[[], torch.Tensor]) -> float:
    """Peak bytes above the model's own in forward and backward; call under fake tensors, with the model made there.

    `loss` makes the input and runs the forward. Gradients of the weights are dropped: planning/zero.py counts them.
    """
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracker warns of the gradients dropped
        tracker = _Total()
        tracker.track_external(model)
        start = _bytes(tracker, "current")
        with tracker:
            loss().backward()  # type: ignore[no-untyped-call]
        return _bytes(tracker, "peak") - start


def _layers_peak(settings: PretrainRun, layers: int) -> float:
    """A language model's `activation_bytes` with this many layers."""
    kernels = _fused_norm() if settings.cluster.trains_on == "gpu" else nullcontext()
    with FakeTensorMode(), default_dtype(DTYPES[settings.train.dtype]), kernels:
        llm, share = settings.llm.model_copy(update={"layers": layers}), _Share(settings.parallel)
        trunk = _TrunkShare(settings.parallel)
        model = LanguageModel(llm, make_layout(settings), share, trunk, settings.parallel.activation_checkpointing)
        model.slots(torch.device("cpu"))
        layout = model.layout
        rows = torch.zeros(settings.train.micro_batch, layout.length, layout.vocab.width, dtype=torch.long)
        return peak_bytes(model, lambda: model(rows, 1.0)["loss"])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """The dtype of weights made in this context; fake weights cannot be converted afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _fused_norm() -> Iterator[None]:
    """Norms keep what a GPU's kernel does; fake tensors of a GPU would need a torch that was built for one."""
    before = norm.rms_norm
    norm.rms_norm = lambda x, weight, eps: cast(torch.Tensor, _FusedNorm.apply(x, weight))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        norm.rms_norm = before


class _FusedNorm(torch.autograd.Function):
    """Shapes and memory of torch's `_fused_rms_norm`, without its arithmetic."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class _Total(MemTracker):  # type: ignore[no-untyped-call]
    """Without statistics by module, which fail if a module runs again after a backward pass, as the discriminator does."""

    def __init__(self) -> None:
        super().__init__()
        calls = ("register_user_hooks", "clear_user_hooks", "__enter__", "__exit__")
        self._mod_tracker: Any = SimpleNamespace(is_bw=False, parents=set(), **dict.fromkeys(calls, lambda *_: None))


def _drop(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _bytes(tracker: MemTracker, moment: str) -> float:
    return float(sum(device["Total"] for device in tracker.get_tracker_snapshot(moment).values()))


class _Share(DenseLayers):
    """One rank's share of the layers, without communication."""

    def __init__(self, parallel: ParallelSection) -> None:
        self.tensor_parallel = parallel.tensor

    def column(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs, outputs // self.tensor_parallel, bias=False)

    def row(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Linear(inputs // self.tensor_parallel, outputs, bias=False)

    def embedding(self, entries: int, width: int) -> nn.Module:
        return nn.Embedding(entries // self.tensor_parallel, width)


class _TrunkShare(_Share):
    """The trunk's layers: slots are divided over `parts` ranks, `sequence` of which share each tensor-parallel matrix."""

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
    """Like parallel/slots.py, with its copies: what arrives from the ranks is joined in new memory."""

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
    """Megatron's column layer, slots first: it keeps only this rank's slots, and gathers the others again in the backward."""

    def __init__(self, inputs: int, outputs: int, ranks: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.ranks = ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return F.linear(x, self.weight)
        mine = x.transpose(0, 1).contiguous()
        return recomputed(True, lambda x: F.linear(torch.cat([x] * self.ranks), self.weight), mine).transpose(0, 1)


class _ScatteringLinear(_GatheringLinear):
    """Megatron's row layer, slots first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.ranks == 1:
            return F.linear(x, self.weight)
        return F.linear(x.transpose(0, 1).contiguous(), self.weight).chunk(self.ranks)[0].clone().transpose(0, 1)
