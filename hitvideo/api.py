"""The Python API: open runs, tokenizers and token shards, generate, read and write videos.

    import hitvideo
    run = hitvideo.load_run("runs/tiny-llm")
    story = run.generate(["a red circle moves right on a black background"], guidance=3, levels=1)[0]
    hitvideo.write_video("story.mp4", story)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.generation.engine import Request
from hitvideo.generation.generator import Generator, load_generator
from hitvideo.generation.record import TAG, Record
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import ClipShape
from hitvideo.runs.directory import RunDirectory
from hitvideo.settings.data import LimitsSection
from hitvideo.settings.programs import PretrainRun, TokenizeRun, VideoTokenizerRun
from hitvideo.video.decode import decode_clip
from hitvideo.video.encode import write_mp4
from hitvideo.video.pixels import Frames, to_uint8, to_unit
from hitvideo.video_tokenizer import weights
from hitvideo.video_tokenizer.model import VideoTokenizer

Codes = Sequence[npt.NDArray[np.integer[Any]]]
"""Indices of the first levels, coarsest first, each (t, h, w)."""


@dataclass(frozen=True)
class Video:
    """Frames with their rate and, for a generated or decoded video, the codes they were decoded from."""

    frames: Frames
    """uint8 (T, H, W, 3)."""
    fps: float
    codes: Codes = ()
    prompt: str = ""
    record: Record | None = None
    """Of a generated video: what its codes are a function of. `write_video` keeps it in the file."""
    run: Run | None = field(default=None, repr=False, compare=False)

    def refine(self, levels: int | None = None) -> Video:
        """A generated video with more levels, all by default: a storyboard's whole video. Raises ConfigError."""
        if self.run is None:
            raise ConfigError("only a video that `Run.generate` drew can be refined")
        return self.run.refine(self, levels)


@dataclass(frozen=True)
class TrainedVideoTokenizer:
    """A trained video tokenizer: one video ⇄ its codes."""

    model: VideoTokenizer
    """The module, for batches of tensors."""
    clip: ClipShape
    """The clips it was trained on."""

    def encode(self, video: Video | Frames, levels: int | None = None) -> list[npt.NDArray[np.int64]]:
        """A video of any length → codes of the first `levels` levels (all by default), each (t, h, w).

        Raises ConfigError if height or width is not a multiple of the coarsest level's cell.
        """
        frames = video.frames if isinstance(video, Video) else video
        tensor = torch.from_numpy(to_unit(frames))[None].to(self._device)
        return [indices[0].cpu().numpy() for indices in self.model.encode(tensor, levels)]

    def decode(self, codes: Codes, frames: int | None = None) -> Video:
        """Codes of any prefix of the levels → the video. `frames`: its length before encoding; by default the clip's.

        Raises ValueError if the codes' grids do not fit each other or `frames`.
        """
        tensors = [torch.from_numpy(np.asarray(indices, np.int64))[None].to(self._device) for indices in codes]
        decoded = self.model.decode(tensors, frames or self.clip.frames)
        return Video(to_uint8(decoded[0].float().cpu().numpy()), self.clip.fps, list(codes))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


class Run:
    """A run directory: settings, metrics, figures and, for a language model, generation. Models load when first used."""

    def __init__(self, path: Path | str, device: torch.device) -> None:
        self.directory = RunDirectory.open(path)
        self.device = device

    @property
    def settings(self) -> PretrainRun | VideoTokenizerRun | TokenizeRun:
        """The resolved settings."""
        return self.directory.settings

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The logged rows, as they are now."""
        return self.directory.metrics()

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Results of `hitvideo evaluate` by name."""
        return self.directory.figures()

    @property
    def clip(self) -> ClipShape:
        """The clips that the run works on."""
        return self.generator.clip if isinstance(self.settings, TokenizeRun) else self.settings.clip

    @cached_property
    def generator(self) -> Generator:
        """The models, loaded. Raises ConfigError if this is not a run of `python -m pretrain`, or has no weights yet."""
        return load_generator(self.directory.path, self.device)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        levels: int | None = None,
        seed: int = 0,
        videos: int = 1,
        memory_gib: float | None = None,
        **sampling: Any,
    ) -> list[Video]:
        """`videos` videos of every prompt, with seeds `seed`, `seed` + 1, …; each keeps its codes and its prompt.

        `levels`: draw only the first ones (1 is the storyboard, which `Video.refine` goes on with); all by default.
        `memory_gib`: most memory for the cache. The rest are fields of `hitvideo.generation.sampling.Sampling`, by name:
        guidance, temperature, top_k, top_p, negative, plan, … Raises ConfigError for settings that are out of range.
        """
        if isinstance(prompts, str):
            raise ConfigError(f"prompts is a list of texts; write generate([{prompts!r}])")
        requests = [Request(prompt, seed + number) for prompt in prompts for number in range(videos)]
        drawn = self.generator.draw(requests, Sampling(**sampling), levels, memory_gib=memory_gib)
        return [self._video(record) for record in drawn.records]

    def refine(self, video: Video, levels: int | None = None) -> Video:
        """A drawn video with more levels (all by default): equal to having drawn them at once. Raises ConfigError."""
        if video.record is None:
            raise ConfigError("only a video that `Run.generate` drew can be refined")
        self.generator.check_record(video.record, "the video")
        request = Request(video.record.prompt, video.record.seed, video.record.codes)
        return self._video(self.generator.draw([request], video.record.sampling, levels).records[0])

    def _video(self, record: Record) -> Video:
        (frames,) = self.generator.decode([indices[None] for indices in record.codes])
        return Video(frames, self.clip.fps, record.codes, record.prompt, record, self)


def load_run(path: Path | str, device: str | None = None) -> Run:
    """Open a run directory. `device`: cuda if there is one, else cpu. Raises ConfigError if it is not a run directory."""
    return Run(path, _device(device))


def load_video_tokenizer(path: Path | str, device: str | None = None) -> TrainedVideoTokenizer:
    """Load a video tokenizer from its run directory or from its `weights` directory. Raises ConfigError."""
    path = Path(path)
    folder = RunDirectory(path).weights if RunDirectory(path).config.is_file() else path
    return TrainedVideoTokenizer(*weights.load_video_tokenizer(folder, _device(device)))


def open_tokens(manifest: Path | str) -> TokenDataset:
    """Open the token shards of a manifest.json: `len`, iteration and `[i]`, each sample with `.caption` and `.codes`.

    Raises ConfigError or ShardError if the manifest or its pack is missing or damaged.
    """
    return TokenDataset(manifest)


def read_video(path: Path | str, clip: ClipShape, start: float = 0.0) -> Video:
    """Cut one clip out of a video file, from `start` seconds on, scaled and cropped to the clip's shape.

    Raises VideoError if the file cannot be decoded or is too short.
    """
    return Video(decode_clip(Path(path), clip, LimitsSection(), start), clip.fps)


def write_video(path: Path | str, video: Video | Frames, fps: float | None = None) -> None:
    """Write H.264 in MP4; a generated video's settings and codes are kept in it (`hitvideo show`).

    `fps`: by default the video's own; needed if `video` is a bare array of frames.
    """
    frames, rate = (video.frames, fps or video.fps) if isinstance(video, Video) else (video, fps)
    if rate is None:
        raise ConfigError("an array of frames has no rate; give fps=…")
    record = video.record if isinstance(video, Video) else None
    write_mp4(Path(path), frames, rate, tags={TAG: record.to_json()} if record else None)


def _device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
