"""A trained run that generates: prompts → videos that keep their codes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError, short
from hitvideo.generation.engine import generate_codes
from hitvideo.generation.request import check_request, tell_what_is_lost
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.llm.model import LanguageModel
from hitvideo.ops.precision import DTYPES
from hitvideo.runs.directory import RunDirectory, VideoTokenizerRecord
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from hitvideo.video.pixels import Frames, to_uint8
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import find_weights, load_video_tokenizer, weights_fingerprint

log = logging.getLogger(__name__)


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
        return int(layout.starts[self.levels if levels is None else levels]) - layout.window

    def codes(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        levels: int | None = None,
        seed: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> list[np.ndarray]:
        """Codes of the first `levels` levels (all by default) for every prompt, each (prompts, t, h, w).

        `progress` is called with the number of tokens drawn since its last call. Logs which prompts are cut. Raises
        ConfigError for prompts that are not text, and for a wrong `levels` or `seed`.
        """
        check_request(prompts, seed, levels, self.levels)
        tell_what_is_lost(prompts, self.text, self.model.layout.window)
        return generate_codes(self.model, self.text, prompts, sampling, levels, seed, progress)

    def decode(self, codes: Sequence[np.ndarray]) -> list[Frames]:
        """Codes of any number of levels, each (B, t, h, w) → B videos, uint8 (T, H, W, 3)."""
        device = self.model.level.weight.device
        tensors = [torch.from_numpy(indices).to(device) for indices in codes]
        videos = self.video_tokenizer.decode(tensors, self.clip.frames)
        return [to_uint8(video) for video in videos.float().cpu().numpy()]


def load_generator(path: Path | str, device: torch.device, video_tokenizer: Path | None = None) -> Generator:
    """Load what a finished (or checkpointed) run of `pretrain` needs to generate, from its directory.

    The video tokenizer is the one its token shards were made with, wherever it is found: in the run itself, at the paths that
    the run names, or at `video_tokenizer`. Its fingerprint decides. Raises ConfigError.
    """
    directory = RunDirectory.open(path)
    settings = directory.settings_as(PretrainRun)
    weights = _find_video_tokenizer(directory, settings, video_tokenizer)
    loaded, clip = load_video_tokenizer(weights, device)
    if _levels(loaded.hierarchy) != _levels(settings.hierarchy):
        raise ConfigError(f"{weights} has another hierarchy than {directory.config}; give the run's own with --video-tokenizer")
    model = LanguageModel(settings.llm, make_layout(settings))
    try:
        model.load_state_dict(directory.model_weights())
    except RuntimeError as error:
        found = short(" ".join(str(error).split()), 400)
        raise ConfigError(f"{directory.path}: its weights do not fit its config.yaml: {found}") from error
    model.to(device, DTYPES[settings.train.dtype] if device.type == "cuda" else torch.float32).eval()
    return Generator(model, directory.text_tokenizer(), loaded, clip)


def _find_video_tokenizer(directory: RunDirectory, settings: PretrainRun, given: Path | None) -> Path:
    """The weights with the fingerprint of the run's tokens."""
    known = directory.video_tokenizer() or _from_manifest(directory, settings)
    if given:
        try:
            found = weights_fingerprint(given)
        except ConfigError as error:
            raise ConfigError(f"--video-tokenizer {error}") from error
        if known is None:
            log.warning("%s does not say which video tokenizer it was trained with: %s is not checked", directory.path, given)
        elif found != known.fingerprint:
            raise ConfigError(
                f"{given} has fingerprint {found}, {directory.path} was trained on tokens of {known.fingerprint}; name the "
                f"right one with --video-tokenizer, or leave it out"
            )
        return given
    if known is None:
        raise ConfigError(
            f"{directory.path}: has no {directory.video_tokenizer_file.name}, and its manifest {_manifest(settings)} is not "
            f"there to say which video tokenizer made its tokens; give --video-tokenizer DIR"
        )
    here, recorded = settings.video_tokenizer.weights, known.weights
    based = [path for place in (here, recorded) if place and (path := _from_start(directory, settings, place))]
    places = [directory.video_tokenizer_copy, *based]
    weights = find_weights(places, known.fingerprint)
    if weights is None:
        tried = ", ".join(map(str, places))
        raise ConfigError(
            f"{directory.path}: the video tokenizer of fingerprint {known.fingerprint} is not at {tried}; "
            f"give --video-tokenizer DIR"
        )
    if directory.video_tokenizer_copy.is_dir() and weights != directory.video_tokenizer_copy:
        log.warning("%s is damaged: the video tokenizer is read from %s", directory.video_tokenizer_copy, weights)
    return weights


def _levels(hierarchy: Hierarchy) -> list[tuple[object, int]]:
    return [(level.down, level.num_bits) for level in hierarchy.levels]


def _manifest(settings: PretrainRun) -> str | None:
    """A blend's parts have one video tokenizer."""
    return settings.data.blend[0].manifest if settings.data.blend else settings.data.manifest


def _from_manifest(directory: RunDirectory, settings: PretrainRun) -> VideoTokenizerRecord | None:
    """What the run's manifest says of its video tokenizer, for runs older than their own record."""
    manifest = _manifest(settings)
    path = _from_start(directory, settings, manifest) if manifest else None
    if path is None or not path.is_file():
        return None
    known = TokenDataset(path).manifest["video_tokenizer"]
    return VideoTokenizerRecord(known["fingerprint"], known.get("weights") or None)


def _from_start(directory: RunDirectory, settings: PretrainRun, path: str) -> Path | None:
    """A path of the settings as seen from the folder that the run was started in.

    That folder is known if run.root is relative and the run is still in it. The folder of this process is not asked: it may
    have other files at the same path. None: unknown.
    """
    if Path(path).is_absolute():
        return Path(path)
    inside, found = settings.run.directory, directory.path.resolve()
    if inside.is_absolute() or found.parts[-len(inside.parts) :] != inside.parts:
        return None
    return Path(*found.parts[: -len(inside.parts)]) / path
