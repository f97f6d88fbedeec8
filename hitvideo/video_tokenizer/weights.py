"""A video tokenizer on disk: weights and settings, one file each."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.config import Section
from hitvideo.errors import ConfigError
from hitvideo.files import replacing
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "video_tokenizer.yaml"
CONFIG_KEY = "video_tokenizer"


class SavedConfig(Section):
    """`video_tokenizer.yaml`: everything needed to build the tokenizer again."""

    clip: ClipShape
    hierarchy: Hierarchy
    video_tokenizer: VideoTokenizerSection

    @property
    def fingerprint(self) -> str:
        """Under the key `video` that `clip` had first, so that weights of then are still known by it."""
        dumped = self.model_dump(mode="json")
        return config.fingerprint({"video": dumped.pop("clip"), **dumped})


def save_video_tokenizer(video_tokenizer: VideoTokenizer, directory: Path, clip: ClipShape) -> None:
    """Write both files into `directory`, each atomically; `load_video_tokenizer` refuses a pair that does not match."""
    saved = SavedConfig(clip=clip, hierarchy=video_tokenizer.hierarchy, video_tokenizer=video_tokenizer.section)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in video_tokenizer.state_dict().items()}
    with replacing(directory / WEIGHTS_FILE) as weights, replacing(directory / CONFIG_FILE) as settings:
        # One metadata key: with more, safetensors orders them at random and equal weights would differ in bytes.
        save_file(tensors, weights, metadata={CONFIG_KEY: saved.fingerprint})
        settings.write_text(config.to_yaml(saved), encoding="utf-8")


def load_video_tokenizer(directory: Path, device: torch.device | str = "cpu") -> tuple[VideoTokenizer, ClipShape]:
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
    if recorded != saved.fingerprint:
        raise ConfigError(f"{weights}: was not saved with the settings in {CONFIG_FILE} beside it; copy both from one run")
    with torch.device(device):
        tokenizer = VideoTokenizer(saved.video_tokenizer, saved.hierarchy)
    try:
        tokenizer.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{weights}: does not fit its settings: {error}") from error
    return tokenizer.eval(), saved.clip


def weights_fingerprint(directory: Path) -> str:
    """16 hex digits of the sha256 of both files: token shards carry them, and another tokenizer has others."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        try:
            with (directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{directory / name}: cannot be read: {error}") from error
    return digest.hexdigest()[:16]
