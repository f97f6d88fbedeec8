"""A run that can generate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hitvideo import config
from hitvideo.checkpoints.reader import Reader, complete
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.generation.engine import generate_codes
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import ClipShape
from hitvideo.llm.model import LanguageModel
from hitvideo.ops.precision import DTYPES
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from hitvideo.video.pixels import to_uint8
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import load_video_tokenizer, weights_fingerprint


@dataclass(frozen=True)
class Generator:
    """A run ready to generate: its language model, text tokenizer and video tokenizer."""

    model: LanguageModel
    text: TextTokenizer
    video_tokenizer: VideoTokenizer
    clip: ClipShape

    @property
    def levels(self) -> int:
        return len(self.model.layout.grids)

    def videos(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        levels: int | None = None,
        seed: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> list[np.ndarray]:
        """A video for each prompt: uint8 (T, H, W, 3). `levels`: how many are drawn, all by default."""
        codes = generate_codes(self.model, self.text, prompts, sampling, levels, seed, progress)
        device = self.model.level.weight.device
        tensors = [torch.from_numpy(indices).to(device) for indices in codes]
        videos = self.video_tokenizer.decode(tensors, self.clip.frames)
        return [to_uint8(video) for video in videos.float().cpu().numpy()]


def load_run(directory: Path, device: torch.device, video_tokenizer: Path | None = None) -> Generator:
    """Everything a finished (or checkpointed) run of `pretrain` needs to generate, from its directory.

    The video tokenizer is the one its token shards were made with, unless another path is given; its fingerprint is checked.
    """
    content = config.read_yaml(directory / "config.yaml")
    if content.get("program") != "pretrain":
        raise ConfigError(f"{directory} is a run of '{content.get('program')}'; name one of `python -m pretrain`")
    settings = config.build(PretrainRun, content, str(directory / "config.yaml"))
    model = LanguageModel(settings.llm, make_layout(settings))
    model.load_state_dict(_weights(directory))
    model.to(device, DTYPES[settings.train.dtype] if device.type == "cuda" else torch.float32).eval()
    path, expected = _video_tokenizer_of(settings, video_tokenizer)
    if expected is not None and weights_fingerprint(path) != expected:
        raise ConfigError(
            f"{path} has fingerprint {weights_fingerprint(path)}, the run was trained on tokens of {expected}; "
            f"name the right one with --video-tokenizer"
        )
    tokenizer, clip = load_video_tokenizer(path, device)
    return Generator(model, TextTokenizer.load(directory / "text_tokenizer.model"), tokenizer, clip)


def _weights(directory: Path) -> dict[str, torch.Tensor]:
    """Exported weights, or where training has not ended those of the newest checkpoint."""
    exported = directory / "weights" / "model.safetensors"
    if exported.is_file():
        try:
            weights: dict[str, torch.Tensor] = load_file(exported)
            return weights
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{exported}: damaged weights: {error}") from error
    found = complete(directory / "checkpoints")
    if not found:
        raise ConfigError(f"{directory}: neither weights nor a finished checkpoint; train it first: python -m pretrain")
    return dict(Reader(found[-1]).weights(torch.float32))


def _video_tokenizer_of(settings: PretrainRun, given: Path | None) -> tuple[Path, str | None]:
    """Where the run's video tokenizer lies, and the fingerprint it must have."""
    manifest = settings.data.manifest
    known = TokenDataset(manifest).manifest["video_tokenizer"] if manifest and Path(manifest).is_file() else None
    path = given or settings.video_tokenizer.weights or (known["weights"] if known else None)
    if path is None:
        raise ConfigError("the run names no video tokenizer and its manifest is gone; give --video-tokenizer DIR")
    return Path(path), known["fingerprint"] if known else None
