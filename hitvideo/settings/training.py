"""The sections `parallel` and `train`: how a run is divided over devices, and how its weights are updated."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hitvideo.config import Count, Fraction, Positive, Section
from hitvideo.errors import ConfigError
from hitvideo.settings.paths import Expanded

_REFUSED = {
    "pipeline": "DeepSpeed's pipeline takes ZeRO 0 and 1 only, and only models of DeepSpeed's layers; use tensor or context",
    "hpz": "ZeRO++'s secondary shards need groups of consecutive ranks, which tensor parallelism already uses",
    "qgz": "ZeRO++'s quantised gradients need groups of consecutive ranks, which tensor parallelism already uses",
    "mics": "MiCS' shards need groups of consecutive ranks, which tensor parallelism already uses",
}


class ParallelSection(Section):
    """How the model, its rows and the optimizer's states are divided over ranks; none of it changes what is computed."""

    tensor: Positive = 1
    """Tensor-parallel ranks (Megatron), which share every matrix."""
    sequence: bool = False
    """Sequence parallelism: also split slots over the tensor-parallel ranks, in norms and the residual stream."""
    context: Positive = 1
    """Context-parallel ranks (Ulysses), which share a row's slots; for rows whose activations do not fit one device."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    """What ZeRO shards over the ranks. 1: Adam's states; 2: gradients too; 3: weights too; 0: nothing."""
    activation_checkpointing: Literal["none", "selective", "block"] = "none"
    """What the backward pass recomputes instead of keeping. selective: all but the results of matrix products and
    attention, or a video tokenizer's norms and activations; block: whole blocks."""
    bucket: Positive = 50_000_000
    """Entries of gradients that ZeRO reduces at a time, and of weights that ZeRO-3 gathers ahead; for ZeRO-3 at least those
    of one transformer block."""
    live_parameters: Positive = 1_000_000_000
    """Most parameters ZeRO-3 keeps gathered at once."""

    @model_validator(mode="before")
    @classmethod
    def _explain(cls, content: Any) -> Any:
        for key in _REFUSED.keys() & set(content if isinstance(content, dict) else ()):
            raise ConfigError(f"parallel.{key} is not offered: {_REFUSED[key]}")
        return content

    @model_validator(mode="after")
    def _check(self) -> ParallelSection:
        if self.sequence and self.tensor == 1:
            raise ConfigError("parallel.sequence splits slots over tensor-parallel ranks, but parallel.tensor is 1; raise it")
        return self


class StartSection(Section):
    """Another run's checkpoint as the beginning of a new run."""

    run: Expanded
    """A run directory, of which the newest undamaged checkpoint is taken, or one checkpoint."""
    what: Literal["weights", "all"] = "weights"
    """weights: those that the run would export (their average, if it keeps one). all: the optimizer's states as well. Steps,
    learning rate and data begin anew either way."""


class TrainSection(Section):
    """Batch, optimizer (AdamW), learning rate and the rhythm of logging."""

    steps: Positive
    """Optimizer steps of the whole run."""
    global_batch: Positive
    """Rows (or clips) per optimizer step over all ranks."""
    micro_batch: Positive
    """Rows (or clips) per forward pass and rank."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Precision of forward and backward passes; master weights, gradients and Adam's states are fp32."""
    lr: float = Field(3e-4, gt=0)
    """Highest learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """What follows the warm-up. cosine: half a cosine over all steps; wsd: `lr`, then a linear decay over the last
    decay_steps; constant: `lr`. More steps stretch the cosine, but only lengthen the level part of the other two."""
    decay_steps: Positive | None = None
    """Steps of the decay of `schedule: wsd`; null: a tenth of the steps."""
    min_lr_ratio: Fraction = 0.1
    """The cosine and the decay end at lr × this."""
    warmup_steps: Count = 0
    """Steps in which the learning rate rises linearly to `lr`."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Adam's decay rates of the first and second moment."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's weight decay, of matrices only; norms, biases and level embeddings have none."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm; larger gradients are scaled down to it."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which `weights/` then holds; 0: no average."""
    log_every: Positive = 10
    """Steps between rows of metrics."""
    validate_every: Positive = 500
    """Steps between validations."""
    validation_batches: Count = 4
    """Global batches in one validation; 0: never validate."""
    rehearse: bool | Literal["auto"] = "auto"
    """Before the first step of a start, take a step of every phase to come on made-up data, and throw it away: memory that does
    not suffice for a later phase ends the run at once. auto: on a GPU."""
    start_from: StartSection | None = None
    """Begin a new run with another run's weights; null: with random ones. A run that goes on ignores it."""

    @model_validator(mode="after")
    def _check_schedule(self) -> TrainSection:
        if self.decay_steps and self.schedule != "wsd":
            raise ConfigError(f"train.decay_steps is for train.schedule=wsd, not {self.schedule}; set that, or leave it out")
        return self

    def accumulation(self, data_ranks: int) -> int:
        """Micro-batches per step and rank. Raises ConfigError if they do not divide the global batch."""
        rows = self.micro_batch * data_ranks
        if self.global_batch % rows:
            raise ConfigError(
                f"train.global_batch {self.global_batch} is not a multiple of train.micro_batch {self.micro_batch} × "
                f"{data_ranks} data-parallel ranks = {rows}; try {max(rows, self.global_batch // rows * rows)}"
            )
        return self.global_batch // rows


class LLMTrainSection(TrainSection):
    """Batch, optimizer (AdamW), learning rate, loss weights and the rhythm of logging."""

    compile: bool = False
    """Compile the transformer's blocks with torch.compile at the first step, which takes a minute or so the first time: each
    as a whole, or with tensor or context parallelism only its norms, RoPE and SwiGLU. Needs a C++ compiler, on a GPU Triton."""
    norm: Literal["torch", "apex"] = "torch"
    """Kernel of RMSNorm. torch: PyTorch's; apex: NVIDIA apex's, built from source, which `compile` cannot fuse with its
    neighbours."""
    text_loss_weight: float = Field(0.1, ge=0)
    """Weight of a caption token's loss; a video token's is 1."""
    corrupt: Fraction = 0.0
    """Share of the ids of coarser levels (all but the finest) that the input shows as others, drawn at random; what is to be
    predicted stays. The model then learns to draw detail over coarse codes with mistakes, as its own have."""
    grouped: Fraction = 0.5
    """With llm.groups: share of the steps whose rows are in the order of the groups; the others are in raster order, which
    the plans sequential and jacobi need."""
    level_balance: Fraction = 0.0
    """0: every video token has the same weight; 1: every level has, which favours the few coarse tokens."""
