"""A trained run that generates: prompts → videos that keep their codes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError, short
from hitvideo.generation.engine import Listener, Request, draw
from hitvideo.generation.loading import load_model
from hitvideo.generation.memory import GIB, bytes_per_video, chunks, videos_at_once
from hitvideo.generation.record import Fingerprints, Record
from hitvideo.generation.request import check_request, tell_remarks
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.llm.model import LanguageModel
from hitvideo.runs.directory import RunDirectory, VideoTokenizerRecord
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from hitvideo.video.pixels import Frames, to_uint8
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import find_weights, load_video_tokenizer, weights_fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """Drawn videos in the order of their requests, and what it took."""

    records: list[Record]
    passes: list[int]
    """Passes of the model for each level, over all batches."""
    seconds: list[float]
    at_once: int
    """Videos in the largest batch."""
    cache_bytes: int
    """The largest cache that was held."""


@dataclass(frozen=True)
class Generator:
    """A run ready to generate: its language model, text tokenizer and video tokenizer."""

    model: LanguageModel
    text: TextTokenizer
    video_tokenizer: VideoTokenizer
    clip: ClipShape
    made_by: Fingerprints

    @property
    def levels(self) -> int:
        """How many levels a video has."""
        return len(self.model.layout.grids)

    def tokens(self, levels: int | None = None, given: int = 0) -> int:
        """Tokens drawn for a video of the first `levels` levels (all by default), of which `given` are drawn already."""
        starts = self.model.layout.starts
        return int(starts[self.levels if levels is None else levels]) - int(starts[given])

    def codes(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        levels: int | None = None,
        seed: int | Sequence[int] = 0,
        progress: Callable[[int], object] | None = None,
        memory_gib: float | None = None,
    ) -> list[np.ndarray]:
        """Codes of the first `levels` levels (all by default) for every prompt, each (prompts, t, h, w).

        `seed`: one for each prompt; a single number S means S, S + 1, …, and their draws are independent.
        `progress` is called with the number of tokens that a video has gained since its last call, on average over videos.
        `memory_gib`: most memory for the cache. Logs which prompts are cut. Raises ConfigError for prompts that are not text,
        and for a wrong `levels` or `seed`.
        """
        seeds = range(seed, seed + len(prompts)) if isinstance(seed, int) else seed
        requests = [Request(prompt, one) for prompt, one in zip(prompts, seeds, strict=True)]
        drawn = self.draw(requests, sampling, levels, Listener(progress), memory_gib)
        return [np.stack(level) for level in zip(*(record.codes for record in drawn.records), strict=True)]

    def draw(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        levels: int | None = None,
        listener: Listener | None = None,
        memory_gib: float | None = None,
    ) -> Drawing:
        """Draw the first `levels` levels (all by default) of every request, as many at once as `memory_gib` holds.

        Raises ConfigError for a request that is out of range, or of which more levels are given than are asked for.
        """
        prompts = [request.prompt for request in requests]
        for request in requests:
            check_request(prompts, request.seed, levels, self.levels)
        layout = self.model.layout
        tell_remarks(list(dict.fromkeys(prompts)), self.text, layout.window, layout.vocab.text_size)
        levels, listener = self.levels if levels is None else levels, listener or Listener()
        device = self.model.level.weight.device
        tell = averaged(listener.tokens, len(requests))
        result = Drawing([], [0] * levels, [0.0] * levels, 0, 0)
        found: dict[int, Record] = {}
        at_once = cache_bytes = 0
        for given in sorted({len(request.given) for request in requests}):
            if given > levels:
                raise ConfigError(f"levels is {levels}; {given} are drawn already")
            rows = [number for number, request in enumerate(requests) if len(request.given) == given]
            each = bytes_per_video(self.model, sampling, levels, given)
            most = videos_at_once(each, memory_gib, device)
            parts = list(chunks(rows, most))
            log.info("%d videos in %d batches of at most %d, %.3g GiB each", len(rows), len(parts), len(parts[0]), each / GIB)
            for part in parts:
                share = Listener(partial(_times, tell, len(part)), listener.level)
                drawn = draw(self.model, self.text, [requests[row] for row in part], sampling, levels, share)
                at_once, cache_bytes = max(at_once, len(part)), max(cache_bytes, drawn.cache_bytes)
                for level, (passes, seconds) in enumerate(zip(drawn.passes, drawn.seconds, strict=True)):
                    result.passes[level] += passes
                    result.seconds[level] += seconds
                for number, row in enumerate(part):
                    found[row] = self.record(requests[row], sampling, [level[number] for level in drawn.codes])
        records = [found[row] for row in range(len(requests))]
        return replace(result, records=records, at_once=at_once, cache_bytes=cache_bytes)

    def record(self, request: Request, sampling: Sampling, codes: Sequence[np.ndarray]) -> Record:
        """What a video keeps of its making."""
        num_bits = [self.model.layout.vocab.num_bits(level) for level in range(len(codes))]
        return Record(request.prompt, request.seed, sampling, self.made_by, codes, num_bits)

    def check_record(self, record: Record, label: str) -> None:
        """Raise ConfigError if a record's codes are not this model's, or the model has other weights now."""
        layout = self.model.layout
        found = [(indices.shape, bits) for indices, bits in zip(record.codes, record.num_bits, strict=True)]
        known = [(tuple(grid), layout.vocab.num_bits(level)) for level, grid in enumerate(layout.grids)]
        if found != known[: len(found)]:
            raise ConfigError(f"{label}: its levels are {short(found)}, the run's are {short(known)}; give its own run")
        if record.made_by.weights != self.made_by.weights:
            theirs, ours = record.made_by.weights, self.made_by.weights
            raise ConfigError(f"{label} was drawn by weights {short(theirs)}, the run has {ours}; give its own run")

    def decode(self, codes: Sequence[np.ndarray]) -> list[Frames]:
        """Codes of any number of levels, each (B, t, h, w) → B videos, uint8 (T, H, W, 3)."""
        device = self.model.level.weight.device
        tensors = [torch.from_numpy(indices).to(device) for indices in codes]
        videos = self.video_tokenizer.decode(tensors, self.clip.frames)
        return [to_uint8(video) for video in videos.float().cpu().numpy()]


def _times(tell: Callable[[int], None], videos: int, gained: int) -> None:
    tell(videos * gained)


def averaged(tokens: Callable[[int], object] | None, total: int) -> Callable[[int], None]:
    """Takes the tokens that some of `total` videos have gained, added up; passes on their average over all, in whole tokens."""
    owed = 0

    def tell(gained: int) -> None:
        nonlocal owed
        owed += gained
        if tokens:
            tokens(owed // total)
        owed %= total

    return tell


def load_generator(path: Path | str, device: torch.device, video_tokenizer: Path | None = None) -> Generator:
    """Load what a finished (or checkpointed) run of `pretrain` needs to generate, from its directory.

    The video tokenizer is the one its token shards were made with, wherever it is found: in the run itself, at the paths that
    the run names, or at `video_tokenizer`. Its fingerprint decides. Raises ConfigError.
    """
    directory = RunDirectory.open(path)
    settings = directory.settings_as(PretrainRun)
    weights = find_video_tokenizer(directory, settings, video_tokenizer)
    loaded, _ = load_video_tokenizer(weights, device)
    if _levels(loaded.hierarchy) != _levels(settings.hierarchy):
        raise ConfigError(f"{weights} has another hierarchy than {directory.config}; give the run's own with --video-tokenizer")
    model, fingerprint = load_model(directory, settings, device)
    text = directory.text_tokenizer()
    digest = hashlib.sha256(fingerprint.encode() + text.model).hexdigest()[:16]
    made_by = Fingerprints(digest, weights_fingerprint(weights))
    return Generator(model, text, loaded, settings.clip, made_by)  # a bucket's, not the video tokenizer's


def find_video_tokenizer(directory: RunDirectory, settings: PretrainRun, given: Path | None) -> Path:
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
