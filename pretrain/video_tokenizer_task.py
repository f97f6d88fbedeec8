"""The video tokenizer's training: its objective, engine, clips of video shards, phases and export."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hitvideo import config
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.clips import ClipSource
from hitvideo.data.loader import split
from hitvideo.data.remote import Shard
from hitvideo.hierarchy import ClipShape
from hitvideo.parallel.engine import Engine
from hitvideo.planning.flops import training_flops_per_clip
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video_tokenizer.losses import sample_prefix
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.phases import Place, place, unquantized_share
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from pretrain.task import Cost, OpenRun, Task, learning_rate, make_batches
from pretrain.video_tokenizer_objective import Objective, load_perceptual

log = logging.getLogger(__name__)
_READ_TOGETHER = 1024  # clips shuffled together; the cost here is decoding, not reading


class VideoTokenizerTask(Task):
    """Trains the video tokenizer, phase by phase."""

    def __init__(self, settings: VideoTokenizerRun, run: OpenRun, source: ClipSource) -> None:
        self.settings = settings
        training, held_out = split(len(source), settings.data.validation_clips)
        validating = settings.train.validation_batches > 0 and len(held_out) > 0
        threads = max(settings.data.workers, 1)
        torch.manual_seed(settings.run.seed)  # initial weights: the same on all ranks, which hold whole copies
        self.objective = Objective(settings)
        super().__init__(
            settings,
            run,
            Engine(self.objective, run.topology, settings.parallel, settings.train, parts=self.objective.parts),
            make_batches(settings, run.topology, source, training, _READ_TOGETHER, threads),
            make_batches(settings, run.topology, source.still(), held_out, _READ_TOGETHER, threads) if validating else None,
            config.fingerprint(settings.video_tokenizer, settings.hierarchy, settings.clip, source.digest),
        )
        self._perceptual = load_perceptual(settings, run.topology.device)
        self._costs = {clip: clip_cost(settings, clip) for clip in {settings.clip_in(phase) for phase in settings.schedule}}

    def set_lr(self, step: int) -> float:
        here = self._place(step)
        if here.step == 0 and self.settings.phases and self.directory.writer:
            log.info("phase %d, %s, begins at step %d", here.number, here.phase.name, step)
        lr = learning_rate(self.settings.train, here.step, here.phase.steps, here.phase.lr)
        self.engine.set_lr(lr, self.objective.frozen(here))
        return lr

    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        here, loss, topology = self._place(step), self.settings.loss, self.topology
        random = torch.Generator().manual_seed(self.settings.run.seed * 1_000_003 + step * topology.data + topology.data_rank)
        unquantized = unquantized_share(self.settings.schedule, here, loss.unquantized_until)
        dropout = loss.level_dropout if here.phase.level_dropout is None else here.phase.level_dropout
        levels = here.phase.levels or len(self.settings.hierarchy.levels)
        prefix = sample_prefix(len(batch), levels, dropout, random, unquantized)
        scalars = self.engine(batch, prefix.to(batch.device), step, here, self._perceptual)
        return {**scalars, "phase": torch.tensor(float(here.number), device=batch.device)}

    def validate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.objective.prefixes(batch)

    def cost(self, step: int) -> Cost:
        return self._costs[self.settings.clip_in(self._place(step).phase)]

    def state(self) -> dict[str, Any]:
        return self.objective.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.objective.load_state(state)

    def write_weights(self, checkpoint: Path) -> None:
        """`weights/`: the tokenizer alone, in fp32."""
        video_tokenizer = VideoTokenizer(self.settings.video_tokenizer, self.settings.hierarchy)
        prefix = "video_tokenizer."
        weights = {name: tensor for name, tensor in Reader(checkpoint).weights(torch.float32) if name.startswith(prefix)}
        video_tokenizer.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
        save_video_tokenizer(video_tokenizer, self.directory.weights, self.settings.clip)

    def _place(self, step: int) -> Place:
        return place(self.settings.schedule, step)


def open_clips(settings: VideoTokenizerRun, shards: Sequence[Shard]) -> ClipSource:
    """The clips of video shards; at each draw of the data order they have the shape of the phase then under way."""

    def clip_at(draw: int) -> ClipShape:
        return settings.clip_in(place(settings.schedule, draw // settings.train.global_batch).phase)

    return ClipSource(shards, settings.clip, settings.limits, settings.data.random_start, clip_at)


def clip_cost(settings: VideoTokenizerRun, clip: ClipShape) -> Cost:
    """What training on one clip of this shape costs."""
    return Cost(settings.hierarchy.tokens(clip.extent), training_flops_per_clip(settings, clip))
