"""Activation memory of one rank, measured on tensors without data.

One rank's share of a model runs forward and backward under torch's fake tensors and memory tracker. So exactly what the
code keeps is counted, recomputation and logits included. A language model runs with two and with three layers; the
difference is what each further layer takes. For a GPU fused_kernels.py changes what norms and compiled blocks keep.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hitvideo.ops.precision import DTYPES
from hitvideo.parallel.fake_ranks import fake_ranks
from hitvideo.parallel.share import share_of_model
from hitvideo.planning.fused_kernels import use_fused_kernels
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
    few = settings.model_copy(update={"llm": settings.llm.model_copy(update={"layers": layers})})
    dtype = DTYPES[settings.train.dtype]
    with fake_ranks(settings.parallel), FakeTensorMode(), default_dtype(dtype):
        model = share_of_model(few, dtype)
        if settings.cluster.trains_on == "gpu":
            use_fused_kernels(model, settings.train.compile)
        grouped = settings.grouped_share > 0  # the longer rows
        (model.grouped_slots if grouped else model.slots)(torch.device("cpu"))
        layout = model.layout
        rows = torch.zeros(settings.train.micro_batch, layout.length, layout.vocab.width, dtype=torch.long)
        return peak_bytes(model, lambda: model(rows, 1.0, grouped=grouped)["loss"])


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """The dtype of weights made in this context; fake weights cannot be converted afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


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
