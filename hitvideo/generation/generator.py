"""A trained run that generates: prompts → videos that keep their codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.files import read_json
from hitvideo.generation.engine import generate_codes
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import ClipShape
from hitvideo.llm.model import LanguageModel
from hitvideo.ops.precision import DTYPES
from hitvideo.runs.directory import RunDirectory
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from hitvideo.video.pixels import Frames, to_uint8
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
        """How many levels a video has."""
        return len(self.model.layout.grids)

    def tokens(self, levels: int | None = None) -> int:
        """Tokens drawn for a video of the first `levels` levels, all by default."""
        layout = self.model.layout
        return int(layout.starts[min(levels or self.levels, self.levels)]) - layout.window

    def codes(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        levels: int | None = None,
        seed: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> list[np.ndarray]:
        """Codes of the first `levels` levels (all by default) for every prompt, each (prompts, t, h, w).

        `progress` is called with the number of tokens drawn since its last call. Raises ConfigError for a wrong `levels`.
        """
        return generate_codes(self.model, self.text, prompts, sampling, levels, seed, progress)

    def decode(self, codes: Sequence[np.ndarray]) -> list[Frames]:
        """Codes of any number of levels, each (B, t, h, w) → B videos, uint8 (T, H, W, 3)."""
        device = self.model.level.weight.device
        tensors = [torch.from_numpy(indices).to(device) for indices in codes]
        videos = self.video_tokenizer.decode(tensors, self.clip.frames)
        return [to_uint8(video) for video in videos.float().cpu().numpy()]


def load_generator(path: Path | str, device: torch.device, video_tokenizer: Path | None = None) -> Generator:
    """Load what a finished (or checkpointed) run of `pretrain` needs to generate, from its directory.

    The video tokenizer is the one its token shards were made with, unless another path is given; its fingerprint is checked.
    Raises ConfigError.
    """
    directory = RunDirectory.open(path)
    settings = directory.settings_as(PretrainRun)
    model = LanguageModel(settings.llm, make_layout(settings))
    model.load_state_dict(directory.model_weights())
    model.to(device, DTYPES[settings.train.dtype] if device.type == "cuda" else torch.float32).eval()
    weights, expected = _find_video_tokenizer(directory, settings, video_tokenizer)
    found = weights_fingerprint(weights)
    if expected not in (None, found):
        raise ConfigError(
            f"{weights} has fingerprint {found}, the run was trained on tokens of {expected}; "
            f"name the right one with --video-tokenizer"
        )
    loaded, clip = load_video_tokenizer(weights, device)
    return Generator(model, directory.text_tokenizer(), loaded, clip)


def _find_video_tokenizer(directory: RunDirectory, settings: PretrainRun, given: Path | None) -> tuple[Path, str | None]:
    """The path of the run's video tokenizer, and the fingerprint it must have."""
    known, manifest = {}, settings.data.manifest
    if directory.video_tokenizer_file.is_file():
        known = read_json(directory.video_tokenizer_file, "record of the video tokenizer")
    elif manifest and Path(manifest).is_file():
        known = TokenDataset(manifest).manifest["video_tokenizer"]
    paths = [Path(path) for path in (given or settings.video_tokenizer.weights, known.get("weights")) if path]
    found = next((path for path in paths if path.is_dir()), None)
    if found is None or (given and found != given):
        tried = ", ".join(map(str, paths)) or "the run names none"
        raise ConfigError(f"{directory.path}: no video tokenizer found ({tried}); give --video-tokenizer DIR")
    return found, known.get("fingerprint")
