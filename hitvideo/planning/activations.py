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
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hitvideo.ops import norm
from hitvideo.ops.precision import DTYPES
from hitvideo.planning.shares import share_of_model
from hitvideo.settings.programs import PretrainRun


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
        model = share_of_model(settings, layers)
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
