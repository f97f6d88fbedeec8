"""Train the video tokenizer on video shards.

    python -m pretrain.video_tokenizer yaml_configs/pretrain_tokenizer/tiny.yaml data.video_shards=shards/
    torchrun --nproc-per-node 8 -m pretrain.video_tokenizer RUN.yaml data.video_shards=…

The same command again resumes. Exit code 75: stopped on request. The result is runs/NAME/weights/.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from hitvideo import config
from hitvideo.config import needed
from hitvideo.data.clips import ClipSource
from hitvideo.data.loader import split
from hitvideo.data.video_shards import list_shards
from hitvideo.evaluate import psnr
from hitvideo.parallel.checkpoint import Reader
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import Topology
from hitvideo.run import RunDirectory, command_line, guarded
from hitvideo.schema import VideoTokenizerRun, load_as
from hitvideo.throughput import mfu
from hitvideo.tokenizer.budget import training_flops_per_clip
from hitvideo.tokenizer.losses import code_use, reconstruction_losses, sample_prefix, unquantized_share
from hitvideo.tokenizer.phases import place
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer
from hitvideo.tracking import Tracker
from pretrain.loop import Job, batches_of, learning_rate, opened, train

log = logging.getLogger(__name__)
_PARTS = tuple(f"video_tokenizer.{part}" for part in ("encoder", "quantizer", "decoder"))
_BLOCK = 1024  # clips within which the order shuffles together; decoding, not reading, is what costs here


class Objective(nn.Module):
    """The tokenizer and what it is trained on, as one module: what the engine calls."""

    def __init__(self, settings: VideoTokenizerRun) -> None:
        super().__init__()
        self.settings = settings
        self.video_tokenizer = VideoTokenizer(settings.video_tokenizer, settings.hierarchy)

    def forward(self, video: torch.Tensor, prefix: torch.Tensor, step: int, quantized: bool) -> dict[str, torch.Tensor]:
        """video (B, 3, T, H, W) and the levels each clip keeps (B,) → scalars; `loss` is minimised.

        `quantized` False: the losses of the codes are logged but do not count.
        """
        weight = next(self.parameters())
        reconstruction = self.video_tokenizer(video.to(weight.dtype), prefix)
        losses = reconstruction_losses(reconstruction, video, self.settings.loss, step, quantized)
        return {**losses, **code_use(reconstruction.codes, [level.num_bits for level in self.settings.hierarchy.levels])}

    @torch.no_grad()
    def prefixes(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """PSNR in dB with the first 1, 2, … levels."""
        weight = next(self.parameters())
        codes = self.video_tokenizer.encode(video.to(weight.dtype))
        levels = range(1, len(codes) + 1)
        decoded = {k: self.video_tokenizer.decode(codes[:k], video.shape[2]) for k in levels}
        return {f"psnr_levels_{k}": psnr(decoded[k].float(), video).mean() for k in levels}


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError for what the user can mend."""
    settings = load_as(VideoTokenizerRun, *command_line("pretrain.video_tokenizer", __doc__, arguments))
    shards = list_shards(needed(settings.data.video_shards, "data.video_shards"))
    source = ClipSource(shards, settings.video, settings.limits, settings.data.random_start)
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
    engine = Engine(objective, topology, settings.parallel, settings.train, parts=_PARTS)
    levels, loss = len(settings.hierarchy.levels), settings.loss

    def set_lr(step: int) -> float:
        here = place(settings.schedule, step)
        if here.step == 0 and settings.phases and directory.writer:
            log.warning("phase %d, %s, begins at step %d", here.number, here.phase.name, step)
        lr = learning_rate(settings.train, here.step, here.phase.steps, here.phase.lr)
        engine.set_lr(lr, frozen=_PARTS[:2] if here.phase.train == "decoder" else ())
        return lr

    def losses(video: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        here = place(settings.schedule, step)
        random = torch.Generator().manual_seed(settings.run.seed * 1_000_003 + step * topology.data + topology.data_rank)
        unquantized = unquantized_share(loss, here.progress) if here.phase.quantized else 1.0
        prefix = sample_prefix(len(video), here.phase.levels or levels, loss.level_dropout, random, unquantized)
        scalars = engine(video, prefix.to(video.device), step, here.phase.quantized)
        return {**scalars, "phase": torch.tensor(float(here.number), device=video.device)}

    return Job(
        engine=engine,
        directory=directory,
        tracker=tracker,
        train=settings.train,
        checkpoint=settings.checkpoint,
        fingerprint=config.fingerprint(settings.video_tokenizer, settings.hierarchy, settings.video, source.digest),
        batches=batches(source, training),
        set_lr=set_lr,
        losses=losses,
        validation=batches(source.still(), held_out) if settings.train.validation_batches and held_out else None,
        validate=objective.prefixes,
        export=lambda checkpoint: export(checkpoint, directory, settings),
        tokens_per_row=settings.hierarchy.tokens(settings.video.extent),
        flops_per_row=training_flops_per_clip(settings),
        utilisation=lambda rate: mfu(rate, topology.world, settings.cluster),
        faults=settings.faults,
    )


def export(checkpoint: Path, directory: RunDirectory, settings: VideoTokenizerRun) -> None:
    """`weights/`: the tokenizer alone, in fp32."""
    tokenizer = VideoTokenizer(settings.video_tokenizer, settings.hierarchy)
    weights = dict(Reader(checkpoint).weights(torch.float32))
    tokenizer.load_state_dict({name.removeprefix("video_tokenizer."): tensor for name, tensor in weights.items()})
    tokenizer.save(directory.weights, settings.video)


if __name__ == "__main__":
    guarded(main)
