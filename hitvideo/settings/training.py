"""The typed sections that runs are made of. What a key means is the string under it; `schema.py` puts them together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hitvideo.config import Fraction, Positive, Section
from hitvideo.errors import ConfigError

_REFUSED = {
    "pipeline": "DeepSpeed's pipeline takes ZeRO 0 and 1 only, and no model of another library's layers; use tensor or context",
    "hpz": "ZeRO++'s secondary shards are cut from consecutive ranks, which tensor parallelism divides otherwise",
    "qgz": "ZeRO++'s quantised gradients travel in groups of consecutive ranks, which tensor parallelism divides otherwise",
    "mics": "MiCS' shard groups are cut from consecutive ranks, which tensor parallelism divides otherwise",
}


class ParallelSection(Section):
    tensor: Positive = 1
    """Megatron tensor-parallel size."""
    sequence: bool = False
    """Within the tensor-parallel ranks, divide the slots too where they would hold copies: norms and residual stream."""
    context: Positive = 1
    """Ranks that share a row's slots (Ulysses): for rows whose activations do not fit one device."""
    zero_stage: Literal[0, 1, 2, 3] = 3
    activation_checkpointing: Literal["none", "selective", "block"] = "none"
    """What the backward computes again instead of keeping it. selective: attention's core and SwiGLU's product only."""

    bucket: Positive = 50_000_000
    """Elements of gradients that ZeRO reduces together."""
    live_parameters: Positive = 1_000_000_000
    """ZeRO-3 keeps at most so many gathered, and lets those that are needed again soon stay."""

    @model_validator(mode="before")
    @classmethod
    def _explain(cls, content: Any) -> Any:
        for key in _REFUSED.keys() & set(content if isinstance(content, dict) else ()):
            raise ConfigError(f"parallel.{key} is not offered: {_REFUSED[key]}")
        return content

    @model_validator(mode="after")
    def _check(self) -> ParallelSection:
        if self.sequence and self.tensor == 1:
            raise ConfigError("parallel.sequence divides slots over the tensor-parallel ranks, and parallel.tensor is 1")
        return self


class TrainSection(Section):
    steps: Positive
    global_batch: Positive
    """Rows (or clips) per optimizer step over all ranks."""
    micro_batch: Positive
    """Rows (or clips) per forward per rank."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    lr: float = Field(3e-4, gt=0)
    min_lr_ratio: Fraction = 0.1
    """The cosine ends at lr × this."""
    warmup_steps: int = Field(0, ge=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0)
    """On matrices only; norms, biases and embeddings of levels have none."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which `weights/` then holds; 0: none."""
    log_every: Positive = 10
    validate_every: Positive = 500
    validation_batches: int = Field(4, ge=0)
    """Micro-batches per rank in a validation; 0 skips it."""

    def accumulation(self, data_ranks: int) -> int:
        """Micro-batches per step and rank. Raises ConfigError where the global batch does not divide."""
        rows = self.micro_batch * data_ranks
        if self.global_batch % rows:
            raise ConfigError(
                f"train.global_batch {self.global_batch} is not a multiple of train.micro_batch {self.micro_batch} × "
                f"{data_ranks} data-parallel ranks = {rows}; try {max(rows, self.global_batch // rows * rows)}"
            )
        return self.global_batch // rows


class LLMTrainSection(TrainSection):
    text_loss_weight: float = Field(0.1, ge=0)
    """Of a caption token's loss, beside 1 for a video token's."""
    level_balance: Fraction = 0.0
    """0: every token counts the same; 1: every level does, so that the few coarse tokens carry the meaning sooner."""
