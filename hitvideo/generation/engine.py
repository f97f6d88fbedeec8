"""Prompt → codes level by level → video, coarse to fine, with classifier-free guidance.

Rows of prompts are drawn together, each beside a row of the empty caption where guidance is not 1. Only the current
level's indices are possible at a slot. Stopping after the first levels gives the storyboard: the same video, undetailed,
before the detail is paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hitvideo import config
from hitvideo.config import ConfigError
from hitvideo.data.token_shards import TokenDataset
from hitvideo.generation.sampling import Sampling, draw, guide
from hitvideo.hierarchy import Clip
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.model import LanguageModel
from hitvideo.parallel.engine import DTYPES
from hitvideo.parallel.restore import Reader, complete
from hitvideo.planning.flops import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer, fingerprint, load
from hitvideo.video.decode import to_uint8


@dataclass(frozen=True)
class Generator:
    """A run ready to generate: its language model, text tokenizer and video tokenizer."""

    model: LanguageModel
    text: TextTokenizer
    video_tokenizer: VideoTokenizer
    clip: Clip

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


@torch.no_grad()
def generate_codes(
    model: LanguageModel,
    text: TextTokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    levels: int | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[np.ndarray]:
    """Indices of the first `levels` levels, each (prompts, t, h, w). `progress` is told of every token drawn."""
    layout = model.layout
    levels = len(layout.grids) if levels is None else levels
    if not 1 <= levels <= len(layout.grids):
        raise ConfigError(f"--levels {levels}: the run has {len(layout.grids)} levels, ask for 1 to {len(layout.grids)}")
    device = model.level.weight.device
    guided = sampling.guidance != 1.0
    captions = [*prompts, *[""] * len(prompts)] if guided else list(prompts)
    stop = layout.starts[levels]
    rows = torch.zeros(len(captions), stop, layout.vocab.width, dtype=torch.long, device=device)
    window = np.stack([layout.text_window(text.encode(caption)) for caption in captions])
    rows[:, : layout.window, 0] = torch.from_numpy(window).to(device)
    cache = model.new_cache(len(captions))
    random = torch.Generator(device=device).manual_seed(seed)
    fresh = rows[:, : layout.window]
    for slot in range(layout.window, stop):
        level = int(layout.levels[slot])
        hidden = model.hidden(fresh, start=cache.seen, cache=cache)[:, -1]  # (B, D)
        rows[:, slot, : len(layout.vocab.blocks[level])] = _draw_slot(model, level, hidden, sampling, random, guided)
        fresh = rows[:, slot : slot + 1]
        if progress:
            progress(1)
    drawn = rows[: len(prompts)].cpu().numpy()
    per_prompt = [layout.split(row, levels) for row in drawn]
    return [np.stack(level) for level in zip(*per_prompt, strict=True)]


def _draw_slot(
    model: LanguageModel, level: int, hidden: torch.Tensor, sampling: Sampling, random: torch.Generator, guided: bool
) -> torch.Tensor:
    """The ids of one slot, sub-code after sub-code: (B, sub-codes). Both halves of a guided batch get the same."""
    blocks, head = model.layout.vocab.blocks[level], cast(LevelHead, model.heads[level])
    chosen = torch.zeros(hidden.shape[0], 0, dtype=torch.long, device=hidden.device)
    for _ in blocks:
        logits = head.logits(hidden, chosen).float()  # (B, 2**bits)
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = guide(conditional, unconditional, sampling.guidance)
        entry = draw(logits, sampling, random)
        entry = torch.cat([entry, entry]) if guided else entry
        chosen = torch.cat([chosen, entry[:, None]], dim=1)
    return chosen + torch.tensor([block.offset for block in blocks], device=hidden.device)


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
    if expected is not None and fingerprint(path) != expected:
        raise ConfigError(
            f"{path} has fingerprint {fingerprint(path)}, the run was trained on tokens of {expected}; "
            f"name the right one with --video-tokenizer"
        )
    tokenizer, clip = load(path, device)
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
