"""Saving and loading of a video tokenizer: one directory with its weights and its settings.

    weights.safetensors     the parameters, with the settings' fingerprint in the metadata
    video_tokenizer.yaml    everything needed to rebuild the model: clip, hierarchy and network

`weights_fingerprint` identifies the pair. Token shards record it, so that a mismatched video tokenizer is detected.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.config import Section, merge
from hitvideo.errors import ConfigError
from hitvideo.files import replacing
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "video_tokenizer.yaml"
CONFIG_KEY = "video_tokenizer"
MOST_KEPT_BYTES = 2 << 30
"""Size up to which a run keeps its video tokenizer's weights by itself."""


class SavedConfig(Section):
    """The content of `video_tokenizer.yaml`."""

    clip: ClipShape
    hierarchy: Hierarchy
    video_tokenizer: VideoTokenizerSection

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any) -> Any:
        """Weights older than `level_path` have levels that read the mean of their cells."""
        network = content.get("video_tokenizer") if isinstance(content, Mapping) else None
        if not isinstance(network, Mapping):
            return content
        return merge(content, {"video_tokenizer": {"level_path": "mean", **network}})

    @property
    def fingerprint(self) -> str:
        """Hash of the settings: with `clip` under its former key `video`, and without a `level_path` of `mean` or a `norm` of
        `frame`, so that older weights keep their fingerprint.
        """
        dumped = self.model_dump(mode="json")
        for key, formerly in (("level_path", "mean"), ("norm", "frame")):
            if dumped["video_tokenizer"][key] == formerly:
                del dumped["video_tokenizer"][key]
        return config.fingerprint({"video": dumped.pop("clip"), **dumped})


def save_video_tokenizer(video_tokenizer: VideoTokenizer, directory: Path, clip: ClipShape) -> None:
    """Write both files to `directory`, each atomically. `load_video_tokenizer` refuses a pair that does not match."""
    saved = SavedConfig(clip=clip, hierarchy=video_tokenizer.hierarchy, video_tokenizer=video_tokenizer.section)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in video_tokenizer.state_dict().items()}
    with replacing(directory / WEIGHTS_FILE) as weights, replacing(directory / CONFIG_FILE) as settings:
        # Only one metadata key: safetensors writes several in random order, so equal weights would give different bytes.
        save_file(tensors, weights, metadata={CONFIG_KEY: saved.fingerprint})
        settings.write_text(config.to_yaml(saved), encoding="utf-8")


def load_video_tokenizer(directory: Path, device: torch.device | str = "cpu") -> tuple[VideoTokenizer, ClipShape]:
    """The video tokenizer in a `weights` directory, in eval mode, and the clip shape it was trained on.

    Raises ConfigError if a file is missing, damaged, or not part of a video tokenizer.
    """
    settings, weights = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    for path in (settings, weights):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; use the `weights` directory of a finished video tokenizer run")
    saved = config.build(SavedConfig, config.read_yaml(settings), str(settings))
    try:
        with safe_open(weights, framework="pt", device=str(device)) as file:
            recorded = (file.metadata() or {}).get(CONFIG_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is not iterable)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{weights}: damaged, or not a safetensors file: {error}") from error
    if recorded is None:
        raise ConfigError(f"{weights}: not a video tokenizer; use the `weights` directory of a video tokenizer run")
    if recorded != saved.fingerprint:
        raise ConfigError(f"{weights}: not saved together with {settings}; copy both files from the same run")
    with torch.device(device):
        video_tokenizer = VideoTokenizer(saved.video_tokenizer, saved.hierarchy)
    try:
        video_tokenizer.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"{weights}: does not fit the network described in {settings}: {error}") from error
    return video_tokenizer.eval(), saved.clip


def find_weights(places: Iterable[Path | str | None], fingerprint: str) -> Path | None:
    """The first of some `weights` directories that has this fingerprint; None: it is in none of them."""
    for place in places:
        with suppress(ConfigError):
            if place and weights_fingerprint(Path(place)) == fingerprint:
                return Path(place)
    return None


def keep_weights(source: Path, folder: Path) -> bool:
    """Link both files of a `weights` directory into `folder`, or copy them; False, and nothing done, above 2 GiB."""
    files = [source / WEIGHTS_FILE, source / CONFIG_FILE]
    if sum(file.stat().st_size for file in files) > MOST_KEPT_BYTES:
        return False
    for file in files:
        with replacing(folder / file.name) as temporary:
            try:
                os.link(file.resolve(), temporary)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(file, temporary)
    return True


def weights_fingerprint(directory: Path) -> str:
    """16 hex digits of a sha256 of both files, which identify the video tokenizer. Raises ConfigError if one is missing."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        try:
            with (directory / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"{directory / name}: cannot be read: {error}") from error
    return digest.hexdigest()[:16]
