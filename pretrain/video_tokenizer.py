"""Train the video tokenizer on video shards.

    python -m pretrain.video_tokenizer yaml_configs/pretrain_tokenizer/tiny.yaml data.video_shards=shards/
    torchrun --nproc-per-node 8 -m pretrain.video_tokenizer RUN.yaml data.video_shards=…

The same command again resumes. Exit code 75: stopped on request. The result is runs/NAME/weights/.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from hitvideo import config
from hitvideo.checkpoints.reader import Reader
from hitvideo.config import needed
from hitvideo.data.clips import ClipSource
from hitvideo.data.loader import split
from hitvideo.data.video_shards import list_shards
from hitvideo.hierarchy import ClipShape
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import Topology
from hitvideo.planning.flops import mfu, training_flops_per_clip
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.program import command_line, guarded
from hitvideo.runs.tracking import Tracker
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.video_tokenizer.losses import sample_prefix
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.phases import place, unquantized_share
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from pretrain.loop import Cost, Job, batches_of, learning_rate, opened, train
from pretrain.video_tokenizer_objective import Objective, perceptual_of

log = logging.getLogger(__name__)
_BLOCK = 1024  # clips within which the order shuffles together; decoding, not reading, is what costs here


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError for what the user can mend."""
    settings = load_settings_as(VideoTokenizerRun, *command_line("pretrain.video_tokenizer", __doc__, arguments))
    shards = list_shards(needed(settings.data.video_shards, "data.video_shards"))

    def clip_at(draw: int) -> ClipShape:
        return settings.clip_in(place(settings.schedule, draw // settings.train.global_batch).phase)

    source = ClipSource(shards, settings.clip, settings.limits, settings.data.random_start, clip_at)
    with opened(settings) as (topology, directory, tracker):
        return train(make_job(settings, source, topology, directory, tracker))


def make_job(
    settings: VideoTokenizerRun, source: ClipSource, topology: Topology, directory: RunDirectory, tracker: Tracker
) -> Job:
    """Model, engine and data of a run, ready for the loop."""
    training, held_out = split(len(source), settings.data.validation_clips)
    batches = batches_of(settings, topology, _BLOCK, threads=max(settings.data.workers, 1))
    torch.manual_seed(settings.run.seed)  # initial weights: the same on all ranks, which hold whole copies
    objective = Objective(settings)
    engine = Engine(objective, topology, settings.parallel, settings.train, parts=objective.parts)
    perceptual = perceptual_of(settings, topology.device)
    levels, loss = len(settings.hierarchy.levels), settings.loss

    def set_lr(step: int) -> float:
        here = place(settings.schedule, step)
        if here.step == 0 and settings.phases and directory.writer:
            log.warning("phase %d, %s, begins at step %d", here.number, here.phase.name, step)
        lr = learning_rate(settings.train, here.step, here.phase.steps, here.phase.lr)
        engine.set_lr(lr, objective.frozen(here))
        return lr

    def losses(video: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        here = place(settings.schedule, step)
        random = torch.Generator().manual_seed(settings.run.seed * 1_000_003 + step * topology.data + topology.data_rank)
        unquantized = unquantized_share(settings.schedule, here, loss.unquantized_until)
        dropout = loss.level_dropout if here.phase.level_dropout is None else here.phase.level_dropout
        prefix = sample_prefix(len(video), here.phase.levels or levels, dropout, random, unquantized)
        scalars = engine(video, prefix.to(video.device), step, here, perceptual)
        return {**scalars, "phase": torch.tensor(float(here.number), device=video.device)}

    return Job(
        engine=engine,
        directory=directory,
        tracker=tracker,
        train=settings.train,
        checkpoint=settings.checkpoint,
        fingerprint=config.fingerprint(settings.video_tokenizer, settings.hierarchy, settings.clip, source.digest),
        batches=batches(source, training),
        set_lr=set_lr,
        losses=losses,
        validation=batches(source.still(), held_out) if settings.train.validation_batches and held_out else None,
        validate=objective.prefixes,
        export=lambda checkpoint: write_weights(checkpoint, directory, settings),
        cost=cost_by_step(settings),
        utilisation=lambda rate: mfu(rate, topology.world, settings.cluster),
        state=objective.state,
        load_state=objective.load_state,
        faults=settings.faults,
    )


def cost_by_step(settings: VideoTokenizerRun) -> Callable[[int], Cost]:
    """What a clip costs at a step: a phase may have clips of a size of its own."""
    clips = {settings.clip_in(phase) for phase in settings.schedule}
    costs = {clip: Cost(settings.hierarchy.tokens(clip.extent), training_flops_per_clip(settings, clip)) for clip in clips}
    return lambda step: costs[settings.clip_in(place(settings.schedule, step).phase)]


def write_weights(checkpoint: Path, directory: RunDirectory, settings: VideoTokenizerRun) -> None:
    """`weights/`: the tokenizer alone, in fp32."""
    tokenizer = VideoTokenizer(settings.video_tokenizer, settings.hierarchy)
    prefix = "video_tokenizer."
    weights = {name: tensor for name, tensor in Reader(checkpoint).weights(torch.float32) if name.startswith(prefix)}
    tokenizer.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
    save_video_tokenizer(tokenizer, directory.weights, settings.clip)


if __name__ == "__main__":
    guarded(main)
