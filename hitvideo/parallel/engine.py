"""The training engine: DeepSpeed ZeRO over Megatron's data-parallel group.

The language model and the video tokenizer share it. It asserts what DeepSpeed made of its settings (deepspeed_settings.py),
because a wrong mpu gives wrong batch sizes and norms without an error.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.utils import clip_grad_norm_
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import set_z3_leaf_modules
from torch import nn

from hitvideo.ops.precision import DTYPES
from hitvideo.parallel.deepspeed_settings import deepspeed_config
from hitvideo.parallel.parameter_groups import parameter_groups
from hitvideo.parallel.topology import ModelParallelUnit, Topology
from hitvideo.settings.training import ParallelSection, TrainSection

# On CPUs DeepSpeed would compile this op at start-up, which takes minutes; only its inference engine uses it.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Engine:
    """A model and its optimizer over all ranks: forward, backward, step."""

    def __init__(
        self,
        model: nn.Module,
        topology: Topology,
        parallel: ParallelSection,
        train: TrainSection,
        leaf_modules: Iterable[type[nn.Module]] = (),
        parts: Sequence[str] = ("",),
        clips: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """`model`: parameters on the meta device get memory here, but no values. `leaf_modules`: classes whose
        parameters ZeRO-3 gathers together instead of one matrix at a time.

        `parts`: prefixes of parameter names that can be frozen separately; each parameter must match exactly one. `clips`:
        parts whose gradients are clipped to these norms of their own; they have no share in train.clip and `grad_norm`.
        """
        deepspeed_logger.setLevel(logging.WARNING)
        self.topology = topology
        self.accumulation = train.accumulation(topology.data)
        leaf_modules = [kind for kind in leaf_modules if any(isinstance(module, kind) for module in model.modules())]
        if parallel.zero_stage == 3 and leaf_modules:
            set_z3_leaf_modules(model, leaf_modules)
        leaves = [module for module in model.modules() if isinstance(module, tuple(leaf_modules))]
        block = max((sum(p.numel() for p in leaf.parameters()) for leaf in leaves), default=0)
        _allocate(model, topology.device, DTYPES[train.dtype], divided=parallel.zero_stage == 3)
        groups = parameter_groups(model, train.weight_decay, parts)
        self._parts = [part for part, _ in groups]
        self._frozen: set[str] = set()
        optimizer = torch.optim.AdamW([group for _, group in groups], lr=train.lr, betas=train.betas, fused=True)
        self.model = model.to(topology.device, DTYPES[train.dtype])
        self.zero_stage = parallel.zero_stage
        self._engine, *_ = deepspeed.initialize(
            model=self.model,
            optimizer=optimizer,
            config=deepspeed_config(parallel, train, self.accumulation, block) | ({"gradient_clipping": 0.0} if clips else {}),
            mpu=ModelParallelUnit(),
        )
        self._norm = 0.0
        self._clips = {"": train.clip, **clips} if clips else {}
        if self.zero_stage == 0 and not clips:
            self._engine.clip_fp32_gradients = self._clip
        self._check(train)
        self._ema = train.ema
        self.averages: list[torch.Tensor] = [flat.detach().clone() for flat in self.masters] if train.ema else []
        """The moving average of each tensor in `masters`, in the same order; empty if the run keeps none."""

    def _check(self, train: TrainSection) -> None:
        engine, topology = self._engine, self.topology
        assert engine.dp_world_size == topology.shards, (engine.dp_world_size, topology)
        assert engine.mp_world_size == topology.tensor, (engine.mp_world_size, topology)
        rows = engine.train_batch_size() // topology.context  # DeepSpeed counts a row once per context rank that shares it
        assert rows == train.global_batch, (rows, train.global_batch)
        assert engine.communication_data_type == torch.float32
        group = engine.optimizer.dp_process_group if self.zero_stage else engine.seq_data_parallel_group
        assert dist.get_process_group_ranks(group)[topology.shard_rank] == topology.rank, "ZeRO partitions over the wrong group"
        assert dist.get_world_size(group) == topology.shards, "ZeRO partitions over the wrong group"

    def __call__(self, *inputs: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = self._engine(*inputs)
        return losses

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate one micro-batch's gradients."""
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch

    def step(self, discard: bool = False) -> bool:
        """Clip, then update the weights and their average. Call after a step's last micro-batch.

        Returns True if the weights were updated. No rank updates if the gradient is not finite or `discard` is set.
        """
        if discard:
            self._spoil()
        if self._clips:
            self._clip_apart()
        self._engine.step()
        if self.zero_stage == 3:  # DeepSpeed overwrites only what gets a gradient; a part at rest would keep its last, or NaN
            self._engine.optimizer.grad_partitions_flat_buffer.zero_()
        if not (self._engine.was_step_applied() if self._norm_by_zero else math.isfinite(self._norm)):
            return False
        for average, master in self._averaged(lambda part: part not in self._frozen):
            done = self.adam.state[master]["step"].double()  # on the weights' device: reading its value would wait for the step
            decay = ((1 + done) / (10 + done)).clamp(max=self._ema)  # lower early: forget the init
            average.lerp_(master.detach(), (1 - decay).to(average))
        return True

    def set_lr(self, lr: float, factors: Mapping[str, float] = MappingProxyType({})) -> None:
        """Set the learning rate of the next step, times a part's factor; at 0 a part keeps its weights bit for bit, and
        their average.
        """
        self._frozen = {part for part, factor in factors.items() if factor == 0}
        for part, group in zip(self._parts, self._engine.optimizer.param_groups, strict=True):
            group["lr"] = lr * factors.get(part, 1.0)

    def take_averages(self, parts: Collection[str]) -> None:
        """Set the fp32 weights of some parts to their averages; `fragments.refresh_weights` passes them on to the forward."""
        for average, master in self._averaged(lambda part: part in parts):
            master.data.copy_(average)

    def _averaged(self, wanted: Callable[[str], bool]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The averages and masters of the wanted parts; none if the run keeps no averages."""
        if not self.averages:
            return []
        triples = zip(self.averages, self.masters, self._master_parts(), strict=True)
        return [(average, master) for average, master, part in triples if wanted(part)]

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradients before clipping, of all parts without a clip of their own; not finite if any
        gradient was not. The number waits for the device; `unread_norm` does not.
        """
        return float(self.unread_norm)

    @property
    def unread_norm(self) -> torch.Tensor | float:
        """`grad_norm`, which may still be on the device, where the update that follows it is under way."""
        norm: torch.Tensor | float = self._engine.get_global_grad_norm() if self._norm_by_zero else self._norm
        return norm

    @property
    def _norm_by_zero(self) -> bool:
        return bool(self.zero_stage) and not self._clips

    def _spoil(self) -> None:
        """Set the gradients to NaN: DeepSpeed then skips the step on every rank, because their global norm is NaN."""
        zero = self._engine.optimizer
        if self.zero_stage == 0:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        elif isinstance(zero, BF16_Optimizer):
            gradients = zero.fp32_groups_gradients_flat
        else:
            gradients = [gradient for group in zero.averaged_gradients.values() for gradient in group or ()]
        for gradient in gradients:
            gradient.fill_(torch.nan)

    def _clip(self) -> None:
        """Clip as DeepSpeed does without ZeRO, but keep the norm, and drop gradients that are not finite as ZeRO does."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self._norm = float(clip_grad_norm_(parameters, self._engine.gradient_clipping(), mpu=self._engine.mpu))
        if not math.isfinite(self._norm):
            self._norm = math.inf
            for parameter in parameters:
                parameter.grad = None

    def _clip_apart(self) -> None:
        """Clip the gradients of parts with a clip of their own, and those of all others together."""
        gradients: dict[str, list[torch.Tensor]] = {part: [] for part in self._clips}
        for part, held in zip(self._master_parts(), self._gradients(), strict=True):
            gradients[part if part in self._clips else ""] += held
        zero = torch.zeros((), device=self.topology.device)
        squares = torch.stack([sum((g.square().sum() for g in held), zero) for held in gradients.values()])
        if self.zero_stage:  # each rank holds a share of the gradients
            dist.all_reduce(squares, group=self._engine.optimizer.dp_process_group)
        norms = squares.sqrt()
        for norm, clip, held in zip(norms, self._clips.values(), gradients.values(), strict=True):
            torch._foreach_mul_(held, (clip / (norm + 1e-6)).clamp(max=1))
        self._norm = float(norms[0]) if norms.isfinite().all() else math.inf
        if not math.isfinite(self._norm):
            self._spoil()
            for parameter in self.model.parameters() if self.zero_stage == 0 else ():
                parameter.grad = None

    def _gradients(self) -> list[list[torch.Tensor]]:
        """This rank's share of the reduced gradients of each of `masters`; call it between the last backward and the step."""
        zero = self._engine.optimizer
        if self.zero_stage == 0:
            return [[] if parameter.grad is None else [parameter.grad] for parameter in self.model.parameters()]
        if isinstance(zero, BF16_Optimizer):
            return [[flat] for flat in zero.fp32_groups_gradient_flat_partition]
        return [list(zero.averaged_gradients.get(number) or ()) for number in range(len(self.masters))]

    def _master_parts(self) -> list[str]:
        """The part that each of `masters` belongs to."""
        zero = self._engine.optimizer
        if self.zero_stage == 0:
            part_of = {id(p): part for part, group in zip(self._parts, zero.param_groups, strict=True) for p in group["params"]}
            return [part_of[id(parameter)] for parameter in self.model.parameters()]
        if self.zero_stage == 3:
            return [self._parts[zero.sub_group_to_group_id[number]] for number in range(len(self.masters))]
        return self._parts

    @property
    def optimizer(self) -> Any:
        """DeepSpeed's ZeRO optimizer, which checkpoints read and write."""
        return self._engine.optimizer

    @property
    def masters(self) -> list[torch.Tensor]:
        """This rank's flat fp32 weight buffers, as ZeRO divided them; without ZeRO, the parameters themselves."""
        zero = self._engine.optimizer
        if self.zero_stage == 0:
            return list(self.model.parameters())
        if self.zero_stage == 3:
            flats = zero.fp32_partitioned_groups_flat
        elif isinstance(zero, BF16_Optimizer):  # ZeRO-1 with fp32 gradients of bf16 weights
            flats = zero.fp32_groups_flat_partition
        else:
            flats = zero.single_partition_of_fp32_groups
        return list(flats)

    @property
    def adam(self) -> Any:
        """The optimizer that holds the states of `masters`."""
        return self._engine.optimizer.optimizer if self.zero_stage else self._engine.optimizer

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Average the values over all ranks, which is the data-parallel mean: tensor-parallel ranks hold equal values."""
        packed = torch.tensor(list(values.values()), dtype=torch.float64, device=self.topology.device)
        dist.all_reduce(packed)
        return dict(zip(values, (packed / self.topology.world).tolist(), strict=True))

    def agree(self, loss: torch.Tensor, *flags: bool) -> tuple[float, list[bool]]:
        """What all ranks must know before a step: a scalar's mean, and `any` of the flags; one collective and one wait."""
        mine = loss.detach().double()
        packed = torch.stack([mine, *(torch.full_like(mine, flag) for flag in flags)])  # no copy from the host: it would wait
        dist.all_reduce(packed)
        total, *raised = packed.tolist()
        return total / self.topology.world, [count > 0 for count in raised]

    def any(self, *flags: bool) -> list[bool]:
        """Combine flags over ranks: each returned flag is true on every rank if it is true on any."""
        packed = torch.tensor([int(flag) for flag in flags], device=self.topology.device)
        dist.all_reduce(packed, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in packed.tolist()]


def _allocate(model: nn.Module, device: torch.device, dtype: torch.dtype, divided: bool) -> None:
    """Give each parameter on the meta device memory, its values still unset, and keep what Megatron has noted on it.

    `divided`: as under ZeRO-3, this rank keeps its share only; no more than one parameter is whole at any time.
    """
    for module in model.modules():
        for name, meta in list(module.named_parameters(recurse=False)):
            if meta.is_meta:
                parameter = nn.Parameter(torch.empty_like(meta, dtype=dtype, device=device))
                vars(parameter).update(vars(meta))
                setattr(module, name, parameter)
                if divided:  # the group must be named, because by default it is the whole world
                    group = ModelParallelUnit().get_data_parallel_group()
                    deepspeed.zero.Init(module=nn.ParameterList([parameter]), data_parallel_group=group)
