"""The typed sections that runs are made of. What a key means is the string under it; `schema.py` puts them together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from hitvideo.config import ConfigError, Section

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Positive: TypeAlias = Annotated[int, Field(gt=0)]


class RunSection(Section):
    name: str
    """Names the run directory and the MLflow run."""
    root: str = "runs"
    """Directory of run directories."""
    seed: int = 0

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError("a run's name is letters, digits, '.', '_' and '-', starting with a letter or digit")
        return name

    @property
    def directory(self) -> Path:
        return Path(self.root) / self.name


class VideoTokenizerSection(Section):
    """The 3D causal VAE and its quantiser."""

    quantizer: Literal["lfq", "fsq"] = "lfq"
    patch: Literal[1, 2, 4] = 1
    """Pixels per side folded into channels before the first convolution."""
    channels: tuple[Positive, ...] = (64, 128, 256)
    """Width before the first and after each down-sampling step; their number follows from the finest level's `down`."""
    blocks: Positive = 2
    """Residual blocks per width."""
    latent_channels: Positive = 16


class PerceptualSection(Section):
    """LPIPS between reconstruction and video."""

    weight: float = Field(0.0, ge=0)
    weights: str | None = None
    """Folder with the public VGG-16 and LPIPS files (see hitvideo/metrics/lpips.py); null: the weight counts as zero."""


class AdversarialSection(Section):
    """A 3D patch discriminator, in the phases that say `adversarial: true`."""

    weight: float = Field(0.0, ge=0)
    """Length of the adversarial gradient at the video, as a share of the reconstruction's."""
    lecam: float = Field(0.001, ge=0)
    channels: Positive = 64
    layers: Positive = 3
    """Steps of stride 2: a patch judges 8×8 pixels of 4 frames by 3, and twice as much by each one more."""


class LossSection(Section):
    """Weights of the video tokenizer's losses."""

    l1: float = Field(1.0, ge=0)
    l2: float = Field(0.0, ge=0)
    log_l2: float = Field(0.0, ge=0)
    """Of the mean over clips of log(l2 of the clip): unlike l1 and l2 it does not fade beside the codes' losses as l2 falls."""
    entropy: float = Field(0.1, ge=0)
    """Of (per-sample − batch) entropy, LFQ only."""
    entropy_boost: float = Field(3.0, ge=1)
    """The entropy weight starts this many times higher …"""
    entropy_anneal_steps: int = Field(2000, ge=0)
    """… and falls to its value linearly over so many steps (MAGVIT-v2)."""
    commitment: float = Field(0.25, ge=0)
    perceptual: PerceptualSection = PerceptualSection()
    adversarial: AdversarialSection = AdversarialSection()
    level_dropout: Fraction = 0.5
    """Share of training clips decoded from a random prefix of the levels, so that every prefix decodes."""
    unquantized_until: Fraction = 0.0
    """Codes come in gradually: the share of clips that pass unquantised falls from 1 to 0 over this part of the first phase
    that is quantised."""


class PhaseSection(Section):
    """One phase of the video tokenizer's schedule."""

    name: str
    steps: Positive
    quantized: bool = True
    """false: latents pass unquantised and the codes learn nothing: encoder and decoder come first."""
    levels: Positive | None = None
    """Only so many of the coarsest levels are used; null: all."""
    level_dropout: Fraction | None = None
    """null: loss.level_dropout. 0 in a last phase gives all levels together a little, and takes nothing from prefixes."""
    train: Literal["all", "decoder"] = "all"
    """decoder: encoder and quantiser keep their weights, so codes made before stay valid."""
    adversarial: bool = False
    """The discriminator learns, and the decoder from it."""
    size: tuple[Positive, Positive] | None = None
    """Height and width of the phase's clips; null: the run's. (tokens_per_s and mfu always count the run's own size.)"""
    lr: float | None = Field(None, gt=0)
    """Where the phase's own cosine starts; null: train.lr."""


class LLMSection(Section):
    """The decoder-only transformer."""

    layers: Positive
    width: Positive
    """D, the residual stream."""
    heads: Positive
    kv_heads: Positive
    """Key/value heads of grouped-query attention; equal to `heads` for plain multi-head attention."""
    hidden: Positive
    """Width inside SwiGLU."""
    rope_axes: tuple[Positive, Positive, Positive]
    """Dimensions of a head that rotate with t, h and w; even, their sum is width / heads."""
    rope_theta: float = Field(10000.0, gt=1)
    norm_eps: float = Field(1e-5, gt=0)
    qk_norm: bool = False
    attention: Literal["auto", "flash", "sdpa"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> LLMSection:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        if sum(self.rope_axes) != self.head_dim or any(axis % 2 for axis in self.rope_axes):
            raise ConfigError(f"rope_axes {list(self.rope_axes)} must be even and sum to the head's {self.head_dim} dimensions")
        return self

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class TextSection(Section):
    model: str | None = None
    """A sentencepiece `.model`; null: the run trains one on its dataset's captions and keeps it in the run directory."""
    vocab_size: int = Field(32000, ge=261)
    """Ids reserved for text; a model may use fewer."""
    window: int = Field(128, ge=2)
    """Slots for BOS, caption and EOS."""


class LimitsSection(Section):
    """What a source video may cost before it is rejected."""

    max_pixels: Positive = 7680 * 4320
    """Per frame."""
    max_seconds: float = Field(6 * 3600.0, gt=0)
    """Duration claimed by the container."""
    max_bytes: Positive = 4 << 30


class ClipDataSection(Section):
    """Video shards as the input of tokenizer training."""

    video_shards: str | None = None
    """A folder of video shards, or a glob of .tar files."""
    validation_clips: Positive = 32
    """Held out of training: the last clips of the last shards (whole sources, where shards keep them together)."""
    random_start: bool = False
    """Cut a training clip anywhere in its video; false: always at the video's start, which is cheapest to decode."""
    workers: int = Field(0, ge=0)
    """Decoding threads beside the training one; 0 and 1 are the same."""


class BlendPart(Section):
    """One dataset of several."""

    manifest: str
    weight: float = Field(gt=0)
    """Its share of the samples drawn, beside the others' weights; small datasets are repeated sooner."""


class TokenDataSection(Section):
    """Token shards as the input of pretraining."""

    manifest: str | None = None
    """manifest.json of a finished tokenization."""
    blend: tuple[BlendPart, ...] = ()
    """Several datasets, drawn by weight; instead of `manifest`."""
    workers: int = Field(1, ge=0)
    """Threads that read ahead, per rank; 0: none. They change no batch."""
    validation_samples: int = Field(64, ge=0)
    """Held out of training: the dataset's last samples (whole sources, where shards keep them together)."""
    caption_dropout: Fraction = 0.1
    """Share of captions replaced by the empty one: what guidance needs."""
    block: Positive = 256
    """Consecutive samples that are read together; the order permutes blocks, then samples within."""


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


class TrainedTokenizerSection(Section):
    weights: str | None = None
    """The `weights` directory of a video tokenizer's run."""
