"""The video tokenizer's training: its objective, engine, clips of video shards, phases and export."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from hitvideo import config
from hitvideo.checkpoints.listing import Fingerprint
from hitvideo.checkpoints.reader import Reader
from hitvideo.data.clips import ClipSource
from hitvideo.data.loader import split
from hitvideo.data.remote import Shard
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import refresh_weights
from hitvideo.planning.flops import training_flops_per_clip
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video_tokenizer.conv import PIXEL_CHANNELS
from hitvideo.video_tokenizer.losses import level_shares, sample_prefix
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.objective import DISCRIMINATOR, Objective, load_perceptual
from hitvideo.video_tokenizer.phases import Place, place, unquantized_share
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from pretrain.task import Cost, OpenRun, Rehearsal, Task, learning_rate, make_batches

log = logging.getLogger(__name__)
_READ_TOGETHER = 1024  # clips of a block of the data order; the cost here is decoding, not reading


class VideoTokenizerTask(Task):
    """Trains the video tokenizer, phase by phase."""

    def __init__(self, settings: VideoTokenizerRun, run: OpenRun, source: ClipSource) -> None:
        self.settings = settings
        if run.directory.writer:
            log.info("training on %s", source.summary())
        training, held_out = split(len(source), settings.data.validation_clips)
        validating = settings.train.validation_batches > 0 and len(held_out) > 0
        threads = max(settings.data.workers, 1)
        torch.manual_seed(settings.run.seed)  # initial weights: the same on all ranks, which hold whole copies
        self.objective = Objective(settings, _mean_over_ranks)
        adversarial = settings.loss.adversarial
        apart = {DISCRIMINATOR: adversarial.clip} if adversarial.weight else {}
        super().__init__(
            settings,
            run,
            Engine(self.objective, run.topology, settings.parallel, settings.train, parts=self.objective.parts, clips=apart),
            make_batches(
                settings, run.topology, source, training, _READ_TOGETHER, threads, lasting=not settings.data.random_start
            ),
            make_batches(settings, run.topology, source.still(), held_out, _READ_TOGETHER, threads) if validating else None,
            data_fingerprint(settings, source),
        )
        source.clip_at = self._clip_at
        self._perceptual = load_perceptual(settings, run.topology.device)
        self._prefixes: Iterator[torch.Tensor] = iter(())
        self._shares: tuple[float, ...] = ()
        self._tables: torch.Tensor | None = None
        self._costs = {clip: clip_cost(settings, clip) for clip in {settings.clip_in(phase) for phase in settings.schedule}}

    def set_lr(self, step: int) -> float:
        here = self._place(step)
        if here.step == 0 and self.settings.phases and self.directory.writer:
            log.info("phase %d, %s, begins at step %d", here.number, here.phase.name, step)
        train, adversarial = self.settings.train, self.settings.loss.adversarial
        factors = {DISCRIMINATOR: adversarial.lr / (here.phase.lr or train.lr)} if adversarial.lr else {}
        lr = learning_rate(train, here.step, here.phase.steps, here.phase.lr)
        self.engine.set_lr(lr, {**factors, **dict.fromkeys(self.objective.frozen(here), 0.0)})
        if here.step == 0 and here.phase.train == "decoder" and self.engine.averages:
            self.engine.take_averages(self.objective.frozen(here))
            refresh_weights(self.engine)
        return lr

    def prepare(self, batches: Sequence[torch.Tensor], step: int) -> None:
        """Draw the prefixes of the global batch, a function of (seed, step, place), and take this rank's."""
        here, loss, device = self._place(step), self.settings.loss, self.topology.device
        unquantized = unquantized_share(self.settings.schedule, here, loss.unquantized_until)
        dropout = loss.level_dropout if here.phase.level_dropout is None else here.phase.level_dropout
        levels = len(self.settings.hierarchy.levels)
        seed, size = (self.settings.run.seed, step), self.settings.train.global_batch
        prefix = sample_prefix(size, here.phase.levels or levels, dropout, seed, unquantized)
        mine = [prefix[places].to(device) for places in self.training.places]
        self.objective.lecam.close_step()
        self._prefixes, self._shares, self._tables = iter(mine), level_shares(prefix, levels), None
        entropy = np.any(loss.entropy) and "lfq" in self.settings.video_tokenizer.quantizers(levels)
        if len(batches) > 1 and entropy and here.phase.quantized and here.phase.train == "all":
            with torch.no_grad():
                parts = zip(batches, mine, strict=True)
                found = [self.engine(part.to(device), kept, step, here, self._shares, None, None, True) for part, kept in parts]
            self._tables = torch.stack([each["tables"] for each in found]).mean(dim=0)

    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        here = self._place(step)
        scalars = self.engine(batch, next(self._prefixes), step, here, self._shares, self._perceptual, self._tables)
        return {**scalars, "phase": torch.tensor(float(here.number), device=batch.device)}

    def validate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.objective.prefixes(batch)

    def cost(self, step: int) -> Cost:
        return self._costs[self.settings.clip_in(self._place(step).phase)]

    def state(self) -> dict[str, Any]:
        return self.objective.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.objective.load_state(state)
        self._prefixes, self._tables = iter(()), None

    def rehearsals(self, step: int) -> list[Rehearsal]:
        """One for each phase from this step on, with the phase's clips."""
        found, first = [], 0
        for phase in self.settings.schedule:
            if first + phase.steps > step:
                clip = self.settings.clip_in(phase)
                shape = (self.train.micro_batch, PIXEL_CHANNELS, clip.frames, clip.height, clip.width)
                what = f"phase {phase.name}, clips of {clip.frames} × {clip.height} × {clip.width}"
                found.append(Rehearsal(what, max(first, step), partial(torch.zeros, shape)))
            first += phase.steps
        return found

    def write_weights(self, checkpoint: Path) -> None:
        """`weights/`: the tokenizer alone, in fp32."""
        video_tokenizer = VideoTokenizer(self.settings.video_tokenizer, self.settings.hierarchy)
        prefix = "video_tokenizer."
        weights = {name: tensor for name, tensor in Reader(checkpoint).weights(torch.float32) if name.startswith(prefix)}
        video_tokenizer.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
        save_video_tokenizer(video_tokenizer, self.directory.weights, self.settings.clip)

    def _clip_at(self, draw: int) -> ClipShape:
        """The shape of the clip drawn at a draw: that of the phase then under way."""
        return self.settings.clip_in(self._place(self.training.step_of(draw)).phase)

    def _place(self, step: int) -> Place:
        return place(self.settings.schedule, step)


def open_clips(settings: VideoTokenizerRun, shards: Sequence[Shard]) -> ClipSource:
    """The clips of video shards. Raises ConfigError if there are none."""
    data, index_folder = settings.data, Path(settings.run.root)
    source = ClipSource(shards, settings.clip, settings.limits, data.random_start, index_folder=index_folder)
    if not len(source):
        raise ConfigError(f"data.video_shards {data.video_shards} has no video to train on: {source.summary()}")
    return source


def data_fingerprint(settings: VideoTokenizerRun, source: ClipSource) -> Fingerprint:
    """Identifies the video shards in checkpoints."""
    former = config.fingerprint(settings.video_tokenizer, settings.hierarchy, settings.clip, source.digest)
    return Fingerprint(f"data-{config.fingerprint(source.digest, {'clips': len(source)})}", former)


def clip_cost(settings: VideoTokenizerRun, clip: ClipShape) -> Cost:
    """What training on one clip of this shape costs."""
    return Cost(settings.hierarchy.tokens(clip.extent), training_flops_per_clip(settings, clip))


def _mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()
