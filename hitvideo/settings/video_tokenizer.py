"""Settings of the video tokenizer: network, losses, phases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hitvideo.config import Fraction, Positive, Section


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


class TrainedTokenizerSection(Section):
    weights: str | None = None
    """The `weights` directory of a video tokenizer's run."""
