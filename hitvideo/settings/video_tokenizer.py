"""The sections `video_tokenizer`, `loss` and `phases`: the video tokenizer's network, what it learns, and in which order."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from hitvideo.config import Count, Depth, Fraction, Positive, Section, Size
from hitvideo.errors import ConfigError
from hitvideo.settings.paths import Expanded

Weight: TypeAlias = Annotated[float, Field(ge=0)]
Weights: TypeAlias = Weight | Annotated[tuple[Weight, ...], Field(min_length=1)]
Shares: TypeAlias = Fraction | Annotated[tuple[Fraction, ...], Field(min_length=1)]
LevelPath = Literal["cells", "block", "mean"]
QuantizerKind = Literal["lfq", "fsq"]
NormKind = Literal["frame", "layer"]


class VideoTokenizerSection(Section):
    """The 3D causal VAE and its quantiser."""

    quantizer: QuantizerKind | Annotated[tuple[QuantizerKind, ...], Field(min_length=1)] = "lfq"
    """How latents become bits. lfq: lookup-free quantisation, which can be made to use all codes; fsq: finite scalar
    quantisation, whose codes can say "nothing to add". A list gives each level its own, coarsest first."""
    level_path: LevelPath = "cells"
    """How a coarse level reads and writes the finest cells under one of its own. cells: all of them by one linear map each
    way, so that a code can say how the cell changes; block: with a small network beside the map; mean: their mean, repeated,
    which cannot hold motion."""
    patch: Literal[1, 2, 4] = 1
    """Pixels per side that are folded into channels before the first convolution."""
    channels: tuple[Size, ...] = (64, 128, 256)
    """Width before the first and after each down-sampling step; their number follows from the finest level's `down`."""
    norm: NormKind = "frame"
    """What the blocks normalise over. frame: a group's channels and all positions of one frame; layer: all channels of one
    position, so that a result does not depend on the frame's size."""
    blocks: Depth = 2
    """Residual blocks per width."""
    latent_channels: Size = 16
    """Channels of the latents that are quantised."""

    def quantizers(self, levels: int) -> tuple[QuantizerKind, ...]:
        """Each level's quantiser, coarsest first. Raises ConfigError if a list does not give one for each."""
        kinds = (self.quantizer,) * levels if isinstance(self.quantizer, str) else self.quantizer
        if len(kinds) != levels:
            raise ConfigError(f"video_tokenizer.quantizer names {len(kinds)}, the hierarchy has {levels} levels; name as many")
        return kinds


class PerceptualSection(Section):
    """LPIPS between reconstruction and video."""

    weight: float = Field(0.0, ge=0)
    """Weight of LPIPS in the loss."""
    weights: Expanded | None = None
    """Folder with the public VGG-16 and LPIPS files (see hitvideo/metrics/lpips.py); null: train without LPIPS."""
    frames: Positive = 8
    """Most frames of a clip that LPIPS compares: evenly spread ones, others at each step. It takes memory for each."""


class AdversarialSection(Section):
    """A 3D patch discriminator, used in phases with `adversarial: true`. It judges only clips decoded from all levels."""

    weight: float = Field(0.0, ge=0)
    """Norm of a clip's adversarial gradient at the video, as a share of its reconstruction gradient's."""
    lr: float | None = Field(None, gt=0)
    """Highest learning rate of the discriminator, which follows the tokenizer's schedule; null: the tokenizer's own."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the discriminator's gradient, which is clipped apart from the tokenizer's."""
    lecam: float = Field(0.001, ge=0)
    """Weight of LeCam regularisation in the discriminator's loss."""
    channels: Size = 64
    """Width of the discriminator's first layer."""
    layers: Depth = 3
    """Down-sampling layers: with 3 there is one logit per 8×8 pixels and 4 frames; each further layer doubles all three."""


class LossSection(Section):
    """Weights of the video tokenizer's losses."""

    l1: float = Field(1.0, ge=0)
    """Weight of the mean absolute error of pixels."""
    l2: float = Field(0.0, ge=0)
    """Weight of the mean squared error of pixels."""
    log_l2: float = Field(0.0, ge=0)
    """Weight of mean log(l2) over clips. Its gradient keeps its size relative to the code losses as l2 shrinks."""
    entropy: Weights = 0.1
    """Weight of the entropy loss (per-sample minus batch entropy), the mean over the levels; LFQ only. A list gives each
    level its own, coarsest first: coarse levels must use their codes, fine ones are harder to predict if they do."""
    entropy_boost: float = Field(3.0, ge=1)
    """At step 0 the entropy weight is this many times higher (MAGVIT-v2)."""
    entropy_anneal_steps: Count = 2000
    """Steps over which the entropy weight falls linearly from its boosted value to `entropy`."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the commitment loss, which pulls the latents to their codes."""
    perceptual: PerceptualSection = PerceptualSection()
    adversarial: AdversarialSection = AdversarialSection()
    level_dropout: Shares = 0.5
    """Share of training clips that are decoded from a random prefix of the levels, which makes every prefix decode. A list
    gives the shares decoded from the first level alone, from the first two, …; the rest is decoded from all."""
    unquantized_until: Fraction = 0.0
    """Quantisation is phased in over this fraction of the first quantised phase: at first all clips pass unquantised."""


class PhaseSection(Section):
    """One phase of the video tokenizer's schedule."""

    name: str
    """Name of the phase, for the log and for errors."""
    steps: Positive
    """Steps of the phase; all phases together have train.steps."""
    quantized: bool = True
    """Quantise the latents; false: they pass as they are, so that encoder and decoder learn first."""
    levels: Positive | None = None
    """How many of the coarsest levels are used; null: all."""
    level_dropout: Shares | None = None
    """The phase's loss.level_dropout; null: the run's. 0 in the last phase slightly improves decoding from all levels and
    does not hurt prefixes."""
    train: Literal["all", "decoder"] = "all"
    """What is trained. decoder: encoder and quantiser keep their weights, so existing codes stay valid. With train.ema they
    take their averages when the phase begins, so the decoder learns from the codes of the weights that are exported."""
    adversarial: bool = False
    """Train the discriminator, and the tokenizer against it."""
    size: tuple[Size, Size] | None = None
    """Height and width of the phase's clips; null: the run's. tokens_per_s and mfu count the phase's clips."""
    lr: float | None = Field(None, gt=0)
    """Learning rate at the start of the phase's own cosine schedule; null: train.lr."""


class TrainedTokenizerSection(Section):
    """A trained video tokenizer."""

    weights: Expanded | None = None
    """The `weights` directory of a video tokenizer's run."""
