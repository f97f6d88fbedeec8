"""VideoTokenizer: video ⇄ codes of all levels, and its two files on disk.

    tokenizer, clip = load(Path("runs/tiny/weights"))
    codes = tokenizer.encode(video)                    # coarsest level first
    tokenizer.decode(codes[:1], frames=8)              # the storyboard: any prefix of the levels decodes

Any number of frames is accepted: the first frame is repeated in front up to a multiple of the coarsest level's cell,
and those frames are dropped again after decoding (after VidTok v1.1), so no frame has a special role.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hitvideo import config
from hitvideo.config import ConfigError, Section
from hitvideo.hierarchy import Clip, Grid, Hierarchy
from hitvideo.sections import VideoTokenizerSection
from hitvideo.tokenizer.autoencoder import PIXEL_CHANNELS, Decoder, Encoder
from hitvideo.tokenizer.hierarchical_quantizer import HierarchicalQuantizer

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "video_tokenizer.yaml"
CONFIG_KEY = "video_tokenizer"


@dataclass
class Reconstruction:
    """What training needs of one forward pass; lists are coarsest level first."""

    video: Tensor
    """(B, 3, T, H, W), not clamped."""
    codes: list[Tensor]
    """Every level's indices, (B, t, h, w) int64."""
    entropy: list[Tensor]
    """Per-sample minus batch entropy, nats; zero outside training and for FSQ."""
    commitment: list[Tensor]
    """Mean squared distance of normalised latents and signs; zero outside training and for FSQ."""
    residual: Tensor
    """What the kept levels leave over of the latents, a mean square; latents have mean square 1."""


class SavedConfig(Section):
    """`video_tokenizer.yaml`: everything needed to build the tokenizer again."""

    video: Clip
    hierarchy: Hierarchy
    video_tokenizer: VideoTokenizerSection


class VideoTokenizer(nn.Module):
    """Causal 3D VAE with a hierarchical quantiser."""

    def __init__(self, section: VideoTokenizerSection, hierarchy: Hierarchy) -> None:
        super().__init__()
        self.section = section
        self.hierarchy = hierarchy
        self.encoder = Encoder(section, hierarchy.finest.down)
        self.quantizer = HierarchicalQuantizer(hierarchy, section.quantizer, section.latent_channels)
        self.decoder = Decoder(section, hierarchy.finest.down)

    def forward(self, video: Tensor, prefix: Tensor | None = None) -> Reconstruction:
        """(B, 3, T, H, W) in [-1, 1] → its reconstruction from the first `prefix[b]` levels of clip b.

        `prefix` None: all levels; 0: that clip's latents pass unquantised (a help in early training).

        Raises ConfigError where H or W is no multiple of the coarsest level's cell.
        """
        quantized = self.quantizer(self.encoder(self._pad(video)), prefix)
        decoded = self.decoder(quantized.latents)  # (B, 3, padded T, H, W)
        return Reconstruction(
            video=decoded[:, :, -video.shape[2] :],
            codes=quantized.codes,
            entropy=quantized.entropy,
            commitment=quantized.commitment,
            residual=quantized.residual,
        )

    @torch.no_grad()
    def encode(self, video: Tensor, levels: int | None = None) -> list[Tensor]:
        """(B, 3, T, H, W) in [-1, 1] → codes of the first `levels` levels (all by default), each (B, t, h, w) int64.

        Raises ConfigError where H or W is no multiple of the coarsest level's cell.
        """
        return self.quantizer.encode(self.encoder(self._pad(video)), levels)

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], frames: int) -> Tensor:
        """Codes of the first k ≥ 1 levels → (B, 3, frames, H, W) in [-1, 1].

        `frames` is the length before encoding. Raises ValueError where the codes' grids do not fit each other or `frames`.
        """
        coarsest, finest = self.hierarchy.levels[0].down, self.hierarchy.finest.down
        t, h, w = codes[0].shape[1:]
        if not 0 < frames <= t * coarsest[0]:
            raise ValueError(f"{t} coarsest cells of {coarsest[0]} frames hold 1 to {t * coarsest[0]} frames, not {frames}")
        grid = Grid(*(size * c // f for size, c, f in zip((t, h, w), coarsest, finest, strict=True)))
        video: Tensor = self.decoder(self.quantizer.decode(codes, grid))  # (B, 3, padded T, H, W)
        return video[:, :, -frames:].clamp(-1, 1)

    def _pad(self, video: Tensor) -> Tensor:
        if video.ndim != 5 or video.shape[1] != PIXEL_CHANNELS:
            raise ValueError(f"a video is (B, 3, T, H, W), got {list(video.shape)}")
        extent = Grid(*video.shape[2:])
        self.hierarchy.grids(extent)
        missing = -extent.t % self.hierarchy.levels[0].down[0]
        return torch.cat((video[:, :, :1].expand(-1, -1, missing, -1, -1), video), dim=2) if missing else video

    def save(self, directory: Path, clip: Clip) -> None:
        """Write both files into `directory`. Each appears whole or not at all; `load` refuses a pair that does not match."""
        directory.mkdir(parents=True, exist_ok=True)
        saved = SavedConfig(video=clip, hierarchy=self.hierarchy, video_tokenizer=self.section)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        weights, settings = directory / f".{WEIGHTS_FILE}.partial", directory / f".{CONFIG_FILE}.partial"
        # One metadata key: with more, safetensors orders them at random and equal weights would differ in bytes.
        save_file(tensors, weights, metadata={CONFIG_KEY: config.fingerprint(saved)})
        settings.write_text(config.to_yaml(saved), encoding="utf-8")
        os.replace(weights, directory / WEIGHTS_FILE)
        os.replace(settings, directory / CONFIG_FILE)


def load(directory: Path, device: torch.device | str = "cpu") -> tuple[VideoTokenizer, Clip]:
    """The tokenizer of a `weights` directory, in eval mode, and the clip it was trained on.

    Raises ConfigError where a file is missing, damaged, or not of a video tokenizer.
    """
    settings, weights = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    for path in (settings, weights):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; give the `weights` directory of a finished video tokenizer run")
    saved = config.build(SavedConfig, config.read_yaml(settings), str(settings))
    try:
        with safe_open(weights, framework="pt", device=str(device)) as file:
            recorded = (file.metadata() or {}).get(CONFIG_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is not iterable)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{weights}: damaged, or not safetensors: {error}") from error
    if recorded is None:
        raise ConfigError(f"{weights}: holds no video tokenizer; give the `weights` directory of its run")
    if recorded != config.fingerprint(saved):
        raise ConfigError(f"{weights}: was not saved with the settings in {CONFIG_FILE} beside it; copy both from one run")
    with torch.device(device):
        tokenizer = VideoTokenizer(saved.video_tokenizer, saved.hierarchy)
    try:
        tokenizer.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{weights}: does not fit its settings: {error}") from error
    return tokenizer.eval(), saved.video


def fingerprint(directory: Path) -> str:
    """16 hex digits of the sha256 of both files: token shards carry them, and another tokenizer has others."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        try:
            with (directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{directory / name}: cannot be read: {error}") from error
    return digest.hexdigest()[:16]
